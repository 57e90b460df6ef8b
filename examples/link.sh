# A chain of commands that can be killed anywhere: `source examples/link.sh`, with the folder of the chain in $out.
#
# link NAME OUTPUT COMMAND...: runs a command unless it is done, keeps what it prints in $out/logs/NAME.txt, and adds a line
# with its name and seconds to $out/times.jsonl. OUTPUT is a path that appears only when the command is done; or -, of a
# command that resumes by itself: that line says then that it is done.
link() {
  local name=$1 output=$2 begun=$SECONDS
  shift 2
  if { [ "$output" = - ] && grep -qs "\"name\": \"$name\"," "$out/times.jsonl"; } || { [ "$output" != - ] && [ -e "$output" ]; }; then
    echo "$name: done already"
    return
  fi
  echo "$name: begins"
  mkdir -p "$out/logs"
  "$@" | tee "$out/logs/$name.txt"
  echo "{\"name\": \"$name\", \"seconds\": $((SECONDS - begun))}" >> "$out/times.jsonl"
}

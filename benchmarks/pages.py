"""Tables in pages of the documents."""


def put_between(page: str, text: str, begin: str, end: str) -> str:
    """The page with another table between two markers.

    Raises:
        ValueError: the page has no place for it.
    """
    if begin not in page or end not in page:
        raise ValueError(f"no place for the table: the page needs the lines {begin} and {end}")
    before, rest = page.split(begin, 1)
    return f"{before}{begin}\n{text}\n{end}{rest.split(end, 1)[1]}"

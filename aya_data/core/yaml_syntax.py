"""What PyYAML's syntax errors mean, in words that name the mistake and its remedy.

The parser reports where it gave up and, as context, where the construct began. For an open quote or
bracket the second is the place to look at, so that is the place reported.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import yaml

__all__ = ["describe_syntax_error"]

_QUOTING = "Put quotes around the value."


def describe_syntax_error(error: yaml.MarkedYAMLError, lines: Sequence[str]) -> tuple[int, int, str, str]:
    """Return (line, column, what is wrong, how to mend it); both places count from 1."""
    problem, context = error.problem or "", error.context or ""
    at = error.problem_mark or error.context_mark
    start = error.context_mark or at
    line, column = (at.line + 1, at.column + 1) if at else (1, 1)
    start_line, start_column = (start.line + 1, start.column + 1) if start else (line, column)
    text = lines[line - 1] if line <= len(lines) else ""

    def here(what: str, remedy: str) -> tuple[int, int, str, str]:
        return line, column, what, remedy

    def there(what: str, remedy: str) -> tuple[int, int, str, str]:
        return start_line, start_column, what, remedy

    tab = re.match(r" *(\t)", text)
    if tab and (column - 1 <= tab.end(1) or "block end" in problem or "expected ':'" in problem):
        return (
            line,
            tab.start(1) + 1,
            "a tab is used for indentation",
            "Indent with spaces; YAML does not allow tabs there.",
        )
    if "quoted scalar" in context and ("end of stream" in problem or "document sep" in problem):
        return there("the quote that opens here is never closed", "Close it with the same quote.")
    if "unknown escape" in problem or "escape sequence of" in problem:
        return here(
            "a backslash in double quotes must begin a known escape",
            "Use single quotes, or write the backslash twice.",
        )
    if "flow sequence" in context or "flow mapping" in context:
        bracket, name = ("]", "list") if "sequence" in context else ("}", "mapping")
        found = _found(problem)
        where = f" in line {line}" if line != start_line and found != "the end of the file" else ""
        return there(
            f"the {name} that opens here is not closed: expected ',' or '{bracket}', found {found}{where}",
            f"Close it with '{bracket}', and separate its items with commas.",
        )
    above = lines[line - 2] if line > 1 else ""
    if (
        "mapping values are not allowed" in problem
        and ":" not in text[: column - 1]
        and (glued := re.match(r"\s*(?:- )?[\w-]+:(?=[^\s/:])", above))
    ):
        return (
            line - 1,
            glued.end(),
            "a space is missing after this colon",
            "Write 'key: value'.",
        )
    if "mapping values are not allowed" in problem and ":" not in text[: column - 1] and above:
        return here(
            "this line continues the value of the line above, so no key can stand in it",
            "A key of its own needs the indentation of its neighbours; a key above it, a colon.",
        )
    if "mapping values are not allowed" in problem:
        return here(
            "a ': ' stands where no key can end",
            "Put quotes around a text that contains ': ', or check the indentation of this line.",
        )
    if "could not find expected ':'" in problem:
        return there("this line has no 'key: value'", "Write a colon and a space after the key.")
    if "sequence entries are not allowed" in problem:
        return here(
            "a list item ('- ') cannot begin here",
            "Put it on a line of its own, indented below the key that it belongs to.",
        )
    if "mapping keys are not allowed" in problem:
        return here("a key marked with '? ' cannot begin here", "Write 'key: value'.")
    if match := re.search(r"found character '(.+)' that cannot start any token", problem):
        character = match[1]
        if character == "\\t":
            return here("a tab stands where a value should begin", "Use spaces.")
        return here(f"a value cannot begin with {character!r}", _QUOTING)
    if "while scanning an alias" in context or "while scanning an anchor" in context:
        sign = "*" if "alias" in context else "&"
        return there(f"a value that begins with {sign!r} is read as an alias or anchor", _QUOTING)
    if match := re.search(r"found undefined alias '?([^']*)'?", problem):
        return here(
            f"nothing is named &{match[1]}, which *{match[1]} refers to",
            "Put quotes around a value that begins with '*', or write the value out.",
        )
    if "duplicate anchor" in context or "duplicate anchor" in problem:
        return here("this anchor name is used twice", "Give each anchor a name of its own.")
    if "expected a single document" in context:
        return here("a second document begins here", "A spec is one document: remove the '---'.")
    if "expected '<document start>'" in problem:
        return here(
            f"the document should end here, found {_found(problem)}",
            "Check the indentation: top-level keys begin in column 1.",
        )
    if "block end" in problem and text[: column - 1].rstrip().endswith(("'", '"')):
        return here("text follows a closed quote", "Put the whole value into one pair of quotes.")
    if "block end" in problem and not text[: column - 1].strip() and text[column - 1] == ":":
        return here("no key stands before this colon", "Write one.")
    if "block end" in problem:
        return here(
            f"this line does not fit the lines above: found {_found(problem)}",
            "Check its indentation: items of one list or mapping begin in one column.",
        )
    if "indentation" in problem and "scanning a block scalar" in context:
        return here("only +, - or a digit may follow | or >", "Begin the text on the next line.")
    if "expected the node content" in problem:
        return here(f"a value is missing: found {_found(problem)}", "Write a value here.")
    if "directive" in context or "YAML document" in problem:
        return here("a '%' line is a YAML directive, and this one is wrong", "Remove the line.")
    if "tag" in context:
        return there("a value that begins with '!' is read as a tag", _QUOTING)
    return here("this is not valid YAML here", "Check quotes, brackets and indentation.")


_TOKENS = {
    "<stream end>": "the end of the file",
    "<block end>": "the end of the block",
    "<block mapping start>": "an indented mapping",
    "<block sequence start>": "an indented list",
    "<scalar>": "a value",
    "<document start>": "'---'",
    "<document end>": "'...'",
    "<alias>": "an alias",
    "<anchor>": "an anchor",
    "<tag>": "a tag",
    "?": "a key",
    "-": "a list item",
    ":": "a colon",
}


def _found(problem: str) -> str:
    match = re.search(r"(?:found|got) '?([^']*)'?$", problem)
    token = match[1] if match else ""
    return _TOKENS.get(token, f"'{token}'" if token else "something else")

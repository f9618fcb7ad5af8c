"""Commands of shell scripts, as words with their variables replaced where the value is known."""

import dataclasses
import re

import tree_sitter
import tree_sitter_bash

PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_bash.language()))
ACCOUNT = "111122223333"


@dataclasses.dataclass(frozen=True)
class Command:
    place: str
    words: tuple

    @property
    def program(self):
        return self.words[0].rpartition("/")[2]

    def values(self, *options, unknown=False):
        """Returns the values of options, which follow as a word or behind an equals sign.

        `unknown` includes those with variables whose value is not known.
        """
        found = []
        for number, word in enumerate(self.words):
            name, equals, value = word.partition("=")
            if name in options:
                found.append(value if equals else "".join(self.words[number + 1 : number + 2]))
        return [value.strip("'\"") for value in found if unknown or "$" not in value]

    def has(self, *words):
        return all(word in self.words for word in words)

    def __str__(self):
        return f"{self.place}: {' '.join(self.words)}"


def commands(script, place, variables=None):
    """Returns the commands of a script; assignments of known values extend the variables."""
    variables = {} if variables is None else variables
    # GitHub replaces expressions before the shell runs.
    script = re.sub(r"\$\{\{ *vars\.AWS_ACCOUNT_ID *\}\}", ACCOUNT, script)
    script = re.sub(r"\$\{\{.*?\}\}", "$EXPRESSION", script)
    found = []

    def visit(node):
        if node.type == "variable_assignment":
            value = node.child_by_field_name("value")
            variables[_text(node.child_by_field_name("name"))] = _word(value, variables) if value else ""
        for child in node.children:
            visit(child)
        if node.type == "command":
            words = [_word(child, variables) for child in node.children if child.type != "variable_assignment"]
            words = [word for word in words if word]
            if words:
                found.append(Command(place, tuple(words)))

    visit(PARSER.parse(script.encode()).root_node)
    return found


def statements(script):
    """Yields the commands, conditions and assignments of a script as they are written, one a line."""

    def visit(node):
        if node.type in ("command", "test_command", "variable_assignment", "declaration_command", "case_item"):
            yield " ".join(_text(node).split())
        else:
            for child in node.children:
                yield from visit(child)

    yield from visit(PARSER.parse(script.encode()).root_node)


def _text(node):
    return node.text.decode()


def _word(node, variables):
    """Returns a word without its quotes; a variable whose value is not known stays."""
    if node.type in ("simple_expansion", "expansion"):
        name = re.sub(r"[^A-Za-z0-9_].*$", "", _text(node).lstrip("${"))
        return variables.get(name, _text(node))
    if node.type == "command_substitution":
        return ACCOUNT if "get-caller-identity" in _text(node) else "$" + _text(node)[1:]
    if node.type == "raw_string":
        return _text(node)[1:-1]
    if node.type in ("word", "string_content", "number", "variable_name"):
        return re.sub(r"\\(.)", r"\1", _text(node))
    if node.type in ("file_redirect", "heredoc_redirect", "herestring_redirect"):
        return ""
    if node.type in ('"', "$", "`"):
        return ""
    if not node.children:
        return _text(node)
    # The text between the children of a string, such as a space, is no node of its own.
    parts, end = [], node.start_byte
    for child in node.children:
        gap = node.text[end - node.start_byte : child.start_byte - node.start_byte].decode()
        parts += [gap, _word(child, variables)]
        end = child.end_byte
    return "".join(parts)

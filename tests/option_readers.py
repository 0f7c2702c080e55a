"""Which options nobody reads, by the syntax tree of the code.

An option is a field of the class that a command gives to `run_command`. It is read where an expression of that class is asked for it, by
`.name` or by `getattr` with a constant. Of the class are parameters, variables and attributes annotated with it or with a container of it,
copies by `replace`, the elements of those containers, and `self` in the class's methods. Where `getattr` is given a variable, all strings
in that file count as read.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

Kinds = frozenset[str]
"""Names of the classes of options that an expression may be of."""
NONE: Kinds = frozenset()
Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@dataclass(frozen=True)
class Read:
    """Where names are looked up: those of the scope, the attributes of each class, and the strings of the file."""

    owners: Mapping[str, Mapping[str, str]]
    """For each class of options, which class declares each of its fields: itself or one that it inherits from."""
    attributes: Mapping[str, Mapping[str, Kinds]]
    """For each class of the code, those of its attributes that are options."""
    strings: frozenset[str]

    def of(self, node: ast.AST, names: Mapping[str, Kinds], within: str = "") -> Iterator[tuple[str, str]]:
        """The class and name of each option that is read below a node, in a scope with these names, within a class."""
        if isinstance(node, ast.ClassDef):
            within = node.name
        elif isinstance(node, Function):
            names = {**names, **self._parameters(node, within)}
            body = node.body if isinstance(node.body, list) else [node.body]
            for inner in (inner for statement in body for inner in ast.walk(statement)):
                names.update({name: kinds for name, kinds in self._bound(inner, names, within) if kinds})
        for inner in ast.iter_child_nodes(node):
            yield from self.of(inner, names, within)
        yield from self._read(node, names, within)

    def annotated(self, annotation: ast.expr | None) -> Kinds:
        """The classes of options that an annotation names."""
        if annotation is None:
            return NONE
        words = [inner.id for inner in ast.walk(annotation) if isinstance(inner, ast.Name)]
        words += [inner.value for inner in ast.walk(annotation) if isinstance(inner, ast.Constant) and isinstance(inner.value, str)]
        return frozenset(words) & self.owners.keys()

    def _parameters(self, function: Function, within: str) -> dict[str, Kinds]:
        given = function.args
        found = {one.arg: self.annotated(one.annotation) for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)}
        if within in self.owners and "self" in found:
            found["self"] = frozenset({within})
        return found

    def _bound(self, node: ast.AST, names: Mapping[str, Kinds], within: str) -> Iterator[tuple[str, Kinds]]:
        """The names that a statement or a loop binds."""
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, self.annotated(node.annotation)
        elif isinstance(node, ast.Assign | ast.NamedExpr | ast.For | ast.comprehension):
            value = node.iter if isinstance(node, ast.For | ast.comprehension) else node.value
            kinds = self._kinds(value, names, within)
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                yield from ((inner.id, kinds) for inner in ast.walk(target) if isinstance(inner, ast.Name))

    def _kinds(self, node: ast.expr, names: Mapping[str, Kinds], within: str) -> Kinds:
        if isinstance(node, ast.Name):
            return names.get(node.id, NONE)
        if isinstance(node, ast.Attribute):
            of_self = isinstance(node.value, ast.Name) and node.value.id == "self"
            holders = [self.attributes.get(within, {})] if of_self else self.attributes.values()
            return NONE.union(*(holder.get(node.attr, NONE) for holder in holders))
        if isinstance(node, ast.Call):
            made = {node.func.id} if isinstance(node.func, ast.Name) else set()
            given = [self._kinds(one, names, within) for one in node.args if not isinstance(one, ast.Starred)]
            return frozenset(made & self.owners.keys()) or (NONE.union(*given) if made & UNPACKING else NONE)
        if isinstance(node, ast.IfExp | ast.BoolOp):
            return NONE.union(*(self._kinds(one, names, within) for one in ast.iter_child_nodes(node) if isinstance(one, ast.expr)))
        return NONE

    def _read(self, node: ast.AST, names: Mapping[str, Kinds], within: str) -> Iterator[tuple[str, str]]:
        asked: Iterable[str] = ()
        kinds = NONE
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            asked, kinds = [node.attr], self._kinds(node.value, names, within)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            asked = [str(node.args[1].value)] if isinstance(node.args[1], ast.Constant) else self.strings
            kinds = self._kinds(node.args[0], names, within)
        for kind in kinds:
            yield from ((self.owners[kind][name], name) for name in asked if name in self.owners[kind])


UNPACKING = {"replace", "enumerate", "zip", "sorted", "reversed", "list", "tuple"}
"""Functions that give back what they were given, or parts of it."""


def declared(definition: ast.ClassDef) -> list[str]:
    """The fields of a dataclass, without those that it inherits."""
    return [node.target.id for node in definition.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]


def unread(trees: Iterable[ast.Module]) -> dict[str, list[str]]:
    """For each class of options that a command in these files has, or that such a one inherits from, the fields that nobody reads."""
    trees = list(trees)
    nodes = [node for tree in trees for node in ast.walk(tree)]
    definitions = {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}

    def line(name: str) -> list[str]:
        """The class and what it inherits from, as far as it is defined in these files."""
        bases = [base.id for base in definitions[name].bases if isinstance(base, ast.Name) and base.id in definitions]
        return [name, *(ancestor for base in bases for ancestor in line(base))]

    commands = {
        node.args[0].id
        for node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "run_command"
        if isinstance(node.args[0], ast.Name) and node.args[0].id in definitions
    }
    # Those of a sweep are made while it runs, from a class whose options are marked as any others.
    commands |= {name for name, definition in definitions.items() if _is_marked(definition)}
    every = {ancestor for name in commands for ancestor in line(name)}
    owners = {name: {field: owner for owner in reversed(line(name)) for field in declared(definitions[owner])} for name in every}
    plain = Read(owners, {}, frozenset())
    attributes = {
        name: {
            **{
                node.target.id: plain.annotated(node.annotation)
                for node in definition.body
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
            },
            **dict(_set_in_init(definition, plain)),
        }
        for name, definition in definitions.items()
    }
    attributes = {name: {key: kinds for base in reversed(line(name)) for key, kinds in attributes[base].items()} for name in attributes}
    found: set[tuple[str, str]] = set()
    for tree in trees:
        strings = frozenset(node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
        found.update(Read(owners, attributes, strings).of(tree, {}))
    return {name: [field for field in declared(definitions[name]) if (name, field) not in found] for name in sorted(every)}


def _is_marked(definition: ast.ClassDef) -> bool:
    """Whether a field is an option by its annotation: `Annotated[..., About...]`."""
    annotations = [node.annotation for node in definition.body if isinstance(node, ast.AnnAssign)]
    return any(isinstance(inner, ast.Name) and inner.id == "About" for annotation in annotations for inner in ast.walk(annotation))


def _set_in_init(definition: ast.ClassDef, plain: Read) -> Iterator[tuple[str, Kinds]]:
    """Attributes that are set to a parameter of the constructor."""
    for function in definition.body:
        if isinstance(function, ast.FunctionDef) and function.name == "__init__":
            names = plain._parameters(function, "")
            for node in ast.walk(function):
                if isinstance(node, ast.Assign):
                    for target, value in _pairs(node):
                        if isinstance(target, ast.Attribute) and isinstance(value, ast.Name):
                            yield target.attr, names.get(value.id, NONE)


def _pairs(node: ast.Assign) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Targets with their values, also of `a, b = c, d`."""
    for target in node.targets:
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            yield from zip(target.elts, node.value.elts, strict=True)
        else:
            yield target, node.value

"""Options of a command in groups: each group is a frozen dataclass, so that a command takes a few values, not twenty."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints


def grouped(function: Callable[..., Any]) -> Callable[..., Any]:
    """Show typer a function whose dataclass parameters are replaced by their fields.

    A field is declared like a parameter of a typer command: `name: Annotated[type, typer.Option(...)] = default`.
    """
    hints = get_type_hints(function, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}

    @functools.wraps(function)
    def command(**values: Any) -> Any:
        arguments = {name: _group_from_values(group, values) for name, group in groups.items()}
        return function(**arguments, **values)

    parameters = _parameters(function, hints)
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    vars(command)["__signature__"] = inspect.Signature(parameters)
    del vars(command)["__wrapped__"]  # typer would look through to the dataclasses
    return command


def _group_from_values(group: Any, values: dict[str, Any]) -> Any:
    return group(**{field.name: values.pop(field.name) for field in dataclasses.fields(group)})


def _parameters(function: Callable[..., Any], hints: dict[str, Any]) -> list[inspect.Parameter]:
    parameters = []
    for name, parameter in inspect.signature(function).parameters.items():
        if dataclasses.is_dataclass(hints[name]):
            parameters.extend(_field_parameters(hints[name]))
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name]))
    return parameters


def _field_parameters(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(group)
    ]

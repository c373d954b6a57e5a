"""The strict view through which a model reads its options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable

from recbole_mm.config.names import suggest
from recbole_mm.config.numbers import LARGEST, is_finite

__all__ = ["ModelOptions"]

_REQUIRED: Any = object()


class ModelOptions:
    """Options of one model, read without RecBole's silent ``None`` for a missing or misspelt key.

    Every reader raises ``KeyError`` for a key that the configuration does not hold (the model's yaml lacks it) and
    ``ValueError`` for a value of the wrong type or out of range; both say what was expected, what was got and where to
    change it.

    An option that is younger than its model names, as ``before``, the value that describes how the model trained
    until then. It stands in for a missing key, and only checkpoints miss one: their options are those of the day they
    were saved, so that they load and score as they were trained. The default of new trainings stands in the yaml.

    Args:
        config: RecBole's ``Config``, or any mapping.
        model_name: Name of the model, for the messages.

    Attributes:
        read: Keys asked for so far.
    """

    def __init__(self, config: Any, model_name: str) -> None:
        self._config = config
        self._model_name = model_name
        self.read: set[str] = set()

    def integer(self, key: str, minimum: int | None = None, maximum: int | None = None, before: Any = _REQUIRED) -> int:
        """A whole number; ``True`` and ``"3"`` are none."""
        return self._integer(key, self._value(key, before), minimum, maximum)

    def number(
        self, key: str, minimum: float | None = None, maximum: float | None = None, before: Any = _REQUIRED
    ) -> float:
        """A finite number, whole or not."""
        return self._number(key, self._value(key, before), minimum, maximum)

    def boolean(self, key: str, before: Any = _REQUIRED) -> bool:
        """``True`` or ``False``; the text ``"False"`` is refused, since it would count as true."""
        return self._boolean(key, self._value(key, before))

    def choice(self, key: str, allowed: Sequence[str], before: Any = _REQUIRED) -> str:
        """One of a few names."""
        return self._choice(key, self._value(key, before), allowed)

    def text(self, key: str) -> str:
        """A non-empty text."""
        return self._text(key, self._value(key))

    def optional_integer(self, key: str, minimum: int | None = None, maximum: int | None = None) -> int | None:
        """A whole number, or ``None`` (``~`` in yaml)."""
        value = self._value(key)
        return None if value is None else self._integer(key, value, minimum, maximum)

    def optional_number(self, key: str, minimum: float | None = None, maximum: float | None = None) -> float | None:
        """A finite number, or ``None`` (``~`` in yaml)."""
        value = self._value(key)
        return None if value is None else self._number(key, value, minimum, maximum)

    def optional_text(self, key: str, before: Any = _REQUIRED) -> str | None:
        """A non-empty text, or ``None`` (``~`` in yaml)."""
        value = self._value(key, before)
        return None if value is None else self._text(key, value)

    def optional_texts(self, key: str) -> list[str] | None:
        """A list of texts, also a single one, or ``None`` (``~`` in yaml)."""
        value = self._value(key)
        if value is None:
            return None
        if not isinstance(value, (str, list, tuple)):
            raise self._error(key, "a list of names such as [image, text]", value)
        return [self._text(key, entry) for entry in ([value] if isinstance(value, str) else value)]

    def optional_mapping(self, key: str) -> dict[str, str] | None:
        """A mapping from names to names, or ``None`` (``~`` in yaml)."""
        value = self._value(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self._error(key, "a mapping such as {text: text_dropped}", value)
        return {self._text(key, name): self._text(f"{key}[{name}]", entry) for name, entry in value.items()}

    def integers(self, key: str, minimum: int | None = None) -> list[int]:
        """A list of whole numbers, which may be empty."""
        value = self._value(key)
        if not isinstance(value, (list, tuple)):
            raise self._error(key, "a list of integers such as [64, 32]", value)
        return [self._integer(key, entry, minimum, None) for entry in value]

    def per_modality(
        self,
        key: str,
        modalities: Iterable[str],
        kind: str = "number",
        allowed: Sequence[str] | None = None,
        default: Any = _REQUIRED,
        minimum: float | None = None,
        maximum: float | None = None,
        unused: Iterable[str] = (),
    ) -> dict[str, Any]:
        """One value for all modalities, or a mapping from modality to value.

        Args:
            key: Name of the option.
            modalities: The modalities that need a value.
            kind: ``integer``, ``number``, ``choice``, ``optional_integer`` or ``boolean``.
            allowed: The names allowed when ``kind`` is ``choice``.
            default: Value of the modalities that a mapping leaves out, and of all of them when the option is ``~``;
                without a default that is an error.
            minimum: Smallest number allowed.
            maximum: Largest number allowed.
            unused: Names that a mapping may have too, such as those of modalities with weight 0.

        Returns:
            A value for each of ``modalities``, in their order.

        Raises:
            KeyError: The option is not set at all.
            ValueError: Unknown modality in the mapping, a modality without a value, or a value of the wrong kind.
        """
        readers: dict[str, Callable[[str, Any], Any]] = {
            "integer": lambda name, value: self._integer(name, value, minimum, maximum),
            "optional_integer": lambda name, value: (
                None if value is None else self._integer(name, value, minimum, maximum)
            ),
            "number": lambda name, value: self._number(name, value, minimum, maximum),
            "boolean": self._boolean,
            "choice": lambda name, value: self._choice(name, value, allowed or ()),
        }
        if kind not in readers:
            raise ValueError(f"per_modality: kind must be one of {', '.join(readers)}, got {kind!r}.")
        names = list(modalities)
        value = self._value(key)
        if value is None and kind != "optional_integer" and default is not _REQUIRED:
            value = {}
        if not isinstance(value, Mapping):
            return {name: readers[kind](key, value) for name in names}
        for name in value:
            if name not in names and name not in unused:
                raise ValueError(
                    f"{self._model_name} option {key!r}: unknown modality {name!r}.{suggest(str(name), names)} "
                    f"The modalities in use are {', '.join(names) or '(none)'}."
                )
        missing = [name for name in names if name not in value]
        if missing and default is _REQUIRED:
            raise ValueError(
                f"{self._model_name} option {key!r}: no value for {', '.join(missing)}; "
                "give one value for all modalities or one for each of them."
            )
        return {
            name: readers[kind](f"{key}[{name}]", value[name]) if name in value else default  # type: ignore[misc]
            for name in names
        }

    def _value(self, key: str, before: Any = _REQUIRED) -> Any:
        self.read.add(key)
        if key in self._config:
            return self._config[key]
        if before is _REQUIRED:
            raise KeyError(
                f"{self._model_name} needs the option {key!r}, which is not set: add it with its default to "
                f"properties/model/{self._model_name}.yaml (or properties/overall.yaml), or pass --{key}=..."
            )
        return before

    def _integer(self, key: str, value: Any, minimum: float | None, maximum: float | None) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._error(key, "an integer" + _bounds(minimum, maximum), value)
        maximum = LARGEST if maximum is None and abs(value) > LARGEST else maximum
        return int(self._within(key, "an integer", value, minimum, maximum))

    def _number(self, key: str, value: Any, minimum: float | None, maximum: float | None) -> float:
        if not is_finite(value):
            raise self._error(key, "a finite number" + _bounds(minimum, maximum), value)
        return float(self._within(key, "a number", value, minimum, maximum))

    def _within(self, key: str, what: str, value: Any, minimum: float | None, maximum: float | None) -> Any:
        if (minimum is not None and value < minimum) or (maximum is not None and value > maximum):
            raise self._error(key, what + _bounds(minimum, maximum), value)
        return value

    def _boolean(self, key: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise self._error(key, "True or False (without quotes)", value)
        return value

    def _choice(self, key: str, value: Any, allowed: Sequence[str]) -> str:
        if value not in allowed or not isinstance(value, str):
            raise self._error(key, f"one of {', '.join(allowed)}", value, suggest(str(value), allowed))
        return value

    def _text(self, key: str, value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise self._error(key, "a non-empty text", value)
        return value

    def _error(self, key: str, expected: str, value: Any, hint: str = "") -> ValueError:
        return ValueError(
            f"{self._model_name} option {key!r}: expected {expected}, got {value!r} ({type(value).__name__}).{hint}"
        )


def _bounds(minimum: float | None, maximum: float | None) -> str:
    if minimum is not None and maximum is not None:
        return f" from {minimum} to {maximum}"
    if minimum is not None:
        return f" of at least {minimum}"
    return f" of at most {maximum}" if maximum is not None else ""

"""Checkpoint rules shared by parts with learned values. Layer: core (L3)."""

from __future__ import annotations

from typing import Any

from torch import nn

from brevitas import config

__all__ = ["PROGRESS", "LearnedValueModule", "save_progress"]

#: Entry of a module's metadata in a state dict that tells how far its statistics are.
PROGRESS = "brevitas_collection"

_REMEDY = (
    "A checkpoint without the learned values of quantizers, such as that of a float model or of "
    "one whose activations have seen no data, is loaded with "
    "`brevitas.config.IGNORE_MISSING_KEYS = True`, or under `BREVITAS_IGNORE_MISSING_KEYS=1`."
)


class _OptionalKey(str):
    """A missing key that tells how to load without it, where an error message is made of it.

    PyTorch does not tell a module whether loading is strict. It makes text of missing keys in one
    place only: when it composes the error of a strict load, whose further lines are `error_msgs`.
    """

    error_msgs: list[str]

    def __format__(self, format_spec: str) -> str:
        if _REMEDY not in self.error_msgs:
            self.error_msgs.append(_REMEDY)
        return super().__format__(format_spec)


def _optional_key(key: str, error_msgs: list[str]) -> _OptionalKey:
    optional = _OptionalKey(key)
    optional.error_msgs = error_msgs
    return optional


def save_progress(destination: Any, prefix: str, progress: dict[str, Any]) -> None:
    """Let the progress of a phase travel with a state dict, beside its keys.

    Args:
        destination: the state dict; a plain dict carries no metadata and takes nothing.
        prefix: prefix of the module's keys, with its last dot.
        progress: what the module needs to resume.
    """
    metadata = getattr(destination, "_metadata", None)
    if metadata is not None:
        metadata.setdefault(prefix[:-1], {})[PROGRESS] = progress


class LearnedValueModule(nn.Module):
    """A module whose learned values may be absent from a checkpoint or from its own state.

    A key in ``optional_keys`` that a checkpoint lacks is reported missing, unless
    ``config.IGNORE_MISSING_KEYS`` is set; the error of a strict load says so. While
    ``has_learned_value`` is False the state dict leaves the keys out, so that loading it cannot
    overwrite statistics with a placeholder.

    Parameters in ``written_in_forward`` are set by the module itself during a forward. Sharding
    keeps them whole on every rank, where the write would else go to a copy that is thrown away.
    """

    optional_keys: tuple[str, ...] = ("value",)
    written_in_forward: tuple[str, ...] = ()

    @property
    def has_learned_value(self) -> bool:
        """True once the values in ``optional_keys`` hold something worth saving."""
        return True

    def forget_learned_value(self) -> None:
        """Called after the optional keys were reset: start learning, or collecting, anew."""

    def on_learned_value_loaded(self, local_metadata: dict[str, Any]) -> None:
        """Called after a checkpoint that has every optional key was loaded."""

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not self.has_learned_value:
            for name in self.optional_keys:
                destination.pop(prefix + name, None)

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        keys = [prefix + name for name in self.optional_keys]
        if all(key in state_dict for key in keys):
            self.on_learned_value_loaded(local_metadata)
        if config.IGNORE_MISSING_KEYS:
            missing_keys[:] = [key for key in missing_keys if key not in keys]
        else:
            missing_keys[:] = [
                _optional_key(key, error_msgs) if key in keys else key for key in missing_keys
            ]

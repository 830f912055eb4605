"""The one way in which a layer's keywords reach its quantizers. Layer: nn (L6)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from typing import Any

from torch import Tensor

from brevitas.common import ExportMixin, LayerProtocol, QuantLayerConfigurationError
from brevitas.inject import DependencyError, InjectorMeta, declared_names, record_reads
from brevitas.nn.mixin.utils import filter_kwargs
from brevitas.proxy.quant_proxy import QuantProxyFromInjector, QuantProxyProtocol
from brevitas.quant_tensor import QuantTensor, plain
from brevitas.utils.python_utils import levels_to_caller

__all__ = ["KeywordReport", "QuantLayerMixin", "QuantProxyMixin", "SeparableLayerMixin"]

# Keywords that mean something to every quantizer, so that no proxy has to read them.
_COMMON_KEYWORDS = frozenset({"device", "dtype"})

# The report of the layer that a layer under construction is a part of, and the prefix of the
# keywords that this part was given.
_WHOLE: ContextVar[tuple[KeywordReport, str] | None] = ContextVar("whole", default=None)


class KeywordReport:
    """Collects which of a layer's keywords its quantizers read, and warns about the others.

    Args:
        layer: the layer under construction.
        kwargs: its keywords.
    """

    def __init__(self, layer: Any, kwargs: dict[str, Any]) -> None:
        self.layer = layer
        self.kwargs = kwargs
        self.known: dict[str, set[str]] = {}
        self.disabled: dict[str, str] = {}
        self.taken: set[str] = set()
        self._whole = _WHOLE.get()

    @contextmanager
    def part(self, prefix: str) -> Iterator[dict[str, Any]]:
        """Build a layer that is a part of this one, from the keywords that start with a prefix.

        Inside the block, layers report what they read to this report in place of warning, so that
        the message names the keyword as the user wrote it.

        Args:
            prefix: start of the keywords that are for the part.

        Yields:
            These keywords, without the prefix.
        """
        token = _WHOLE.set((self, prefix))
        try:
            yield filter_kwargs(prefix, self.kwargs)
        finally:
            _WHOLE.reset(token)

    def _add_part(self, prefix: str, part: KeywordReport) -> None:
        for inner, names in part.known.items():
            self.add(prefix + inner, names)
        for inner, reason in part.disabled.items():
            self.add_disabled(prefix + inner, reason)
        given = filter_kwargs(prefix, self.kwargs)
        taken = part.taken | {name for name in given if name not in part.kwargs}
        self.taken |= {prefix + name for name in taken}

    def as_given(self, name: str) -> str:
        """Return the keyword of the user that stands for ``name``, where the layer is a part."""
        if self._whole is None:
            return name
        whole, prefix = self._whole
        # The quantizer of an activation has no prefix of its own among the keywords.
        return whole.as_given(prefix + name.removeprefix("act_"))

    @property
    def layer_name(self) -> str:
        """Class of the layer that the user builds."""
        return type(self.layer).__name__ if self._whole is None else self._whole[0].layer_name

    def add(self, prefix: str, names: set[str]) -> None:
        """Record the names that the quantizer behind ``prefix`` reads or declares."""
        self.known.setdefault(prefix, set()).update(names)

    def add_disabled(self, prefix: str, reason: str) -> None:
        """Record why the quantizer behind ``prefix`` reads nothing: it is None, or shared."""
        self.disabled[prefix] = reason

    def warn_unused(self) -> None:
        """Warn once for each keyword that no quantizer reads, with the nearest valid name."""
        if self._whole is not None:
            whole, prefix = self._whole
            whole._add_part(prefix, self)
            return
        for key, given in self.kwargs.items():
            if not self._is_read(key):
                warnings.warn(
                    f"{self.layer_name}: keyword {key}={given!r} is read by none of its quantizers."
                    f"{self._hint(key)}",
                    UserWarning,
                    stacklevel=levels_to_caller(),
                )

    def _is_read(self, key: str) -> bool:
        return key in self.taken or any(
            key.startswith(prefix) and key[len(prefix) :] in names | _COMMON_KEYWORDS
            for prefix, names in self.known.items()
        )

    def _hint(self, key: str) -> str:
        for prefix, reason in self.disabled.items():
            if key.startswith(prefix):
                return f" {reason} here, so that {prefix}* has no effect."
        valid = {prefix + name for prefix, names in self.known.items() for name in names}
        matches = get_close_matches(key, sorted(valid), n=1, cutoff=0.6)
        return f" Did you mean {matches[0]!r}?" if matches else ""


class QuantProxyMixin:
    """Attaches one quantizer to a layer, as the submodule ``<proxy_prefix>quant``."""

    _is_loading = False

    def _load_from_state_dict(self, *args: Any) -> None:
        # With assign=True, loading registers parameters: no reason to start learning anew.
        self._is_loading = True
        try:
            super()._load_from_state_dict(*args)  # type: ignore[misc]
        finally:
            self._is_loading = False

    def restart_quantizer(self, registered: str, parameter: str) -> None:
        """Reset the quantizer of ``parameter`` if that is what was registered, not loaded."""
        proxy = self.__dict__.get("_modules", {}).get(f"{parameter}_quant")
        if registered == parameter and proxy is not None and not self._is_loading:
            proxy.init_tensor_quant()

    def attach_quantizer(
        self,
        quant: Any,
        none_quant_injector: InjectorMeta,
        proxy_prefix: str,
        kwargs_prefix: str,
        report: KeywordReport,
        proxy_base: type[QuantProxyFromInjector],
        **extra: Any,
    ) -> None:
        """Build or share the proxy of one tensor of the layer.

        Args:
            quant: a quantizer class, a proxy to share, or None.
            none_quant_injector: what None stands for.
            proxy_prefix: start of the submodule's name, e.g. ``weight_``.
            kwargs_prefix: start of the keywords that go to this quantizer.
            report: the layer's keywords, and where to record which of them are read.
            proxy_base: class that proxies of this tensor derive from.
            **extra: further declarations that the layer makes, e.g. its activation function.

        Raises:
            TypeError: for anything else given as ``quant``, or a quantizer of another tensor.
        """
        name = proxy_prefix + "quant"
        if quant is None:
            quant = none_quant_injector
            report.add_disabled(kwargs_prefix, f"{report.as_given(name)} is None")
        if isinstance(quant, InjectorMeta):
            proxy = self._build_proxy(quant, name, kwargs_prefix, report, proxy_base, extra)
        elif _is_proxy(quant):
            if isinstance(quant, QuantProxyFromInjector):
                given = f"{report.as_given(name)}=a shared {type(quant).__name__}"
                self._check_kind(type(quant), given, report, proxy_base)
            quant.add_tracked_module(self)  # pyright: ignore[reportArgumentType]
            proxy = quant
            report.add_disabled(kwargs_prefix, f"{report.as_given(name)} is shared")
        else:
            raise TypeError(
                f"{report.as_given(name)}={quant!r}: expected a quantizer class (e.g. "
                f"brevitas.quant.Int8WeightPerTensorFloat), a proxy to share (other_layer.{name}), "
                f"or None. Layer: {report.layer_name}"
            )
        setattr(self, name, proxy)

    def _build_proxy(
        self,
        quant: InjectorMeta,
        name: str,
        kwargs_prefix: str,
        report: KeywordReport,
        proxy_base: type[QuantProxyFromInjector],
        extra: dict[str, Any],
    ) -> Any:
        reads: set[str] = set()
        injector = quant.let(**extra, **filter_kwargs(kwargs_prefix, report.kwargs))
        proxy_class = injector.proxy_class
        is_ours = isinstance(proxy_class, type) and issubclass(proxy_class, QuantProxyFromInjector)
        if is_ours:
            given = f"{report.as_given(name)}={quant.__name__}"
            self._check_kind(proxy_class, given, report, proxy_base)
        with record_reads(reads), _naming(report, kwargs_prefix):
            proxy = proxy_class(self, injector)  # pyright: ignore[reportArgumentType]
        report.add(kwargs_prefix, reads | declared_names(quant))
        return proxy

    def _check_kind(
        self,
        proxy_class: type,
        given: str,
        report: KeywordReport,
        proxy_base: type[QuantProxyFromInjector],
    ) -> None:
        if not issubclass(proxy_class, proxy_base):
            raise TypeError(
                f"{given}: its proxy is {proxy_class.__name__}, expected a quantizer "
                f"whose proxy is a {proxy_base.__name__}. Layer: {report.layer_name}"
            )


def _is_proxy(quant: Any) -> bool:
    return not isinstance(quant, type) and isinstance(quant, QuantProxyProtocol)


class _naming:
    """Adds the keyword's prefix and the layer to an error about one of its quantizers."""

    def __init__(self, report: KeywordReport, prefix: str) -> None:
        self.layer = report.layer_name
        self.prefix = report.as_given(prefix)

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: Any, traceback: Any) -> None:
        if kind in (ValueError, TypeError):
            raise kind(f"{self.prefix}{error} Layer: {self.layer}").with_traceback(
                traceback
            ) from error
        if kind is not None and issubclass(kind, DependencyError):
            keyword = f" (keywords of this quantizer: {self.prefix}...)" if self.prefix else ""
            raise kind(f"{error}\nLayer: {self.layer}{keyword}").with_traceback(
                traceback
            ) from error


class QuantLayerMixin(ExportMixin, LayerProtocol):
    """A quantized layer: takes plain or quant tensors, returns a quant tensor when asked to.

    Args:
        return_quant_tensor: return the output with its scale, zero point and bit width.
    """

    accept_quant_tensor = True

    def __init__(self, return_quant_tensor: bool) -> None:
        ExportMixin.__init__(self)
        self.return_quant_tensor = return_quant_tensor

    @property
    def channelwise_separable(self) -> bool:
        """True where each output channel depends on one input channel only."""
        raise NotImplementedError(f"{type(self).__name__} does not say whether it is separable.")

    @property
    def requires_export_handler(self) -> bool:
        """True: an exporter may represent the layer itself, besides its quantizers."""
        return True

    def get_quant_tensor_class(self, inp: Tensor | QuantTensor) -> type[QuantTensor] | None:
        """Class of a quant tensor, None for a plain tensor."""
        return type(inp) if isinstance(inp, QuantTensor) else None

    def unpack_input(self, inp: Tensor | QuantTensor) -> Tensor | QuantTensor:
        """Return the input as the layer computes on it."""
        return inp

    def pack_output(self, quant_output: Tensor | QuantTensor) -> Tensor | QuantTensor:
        """Return a quant tensor when the layer was asked for one, a plain tensor otherwise.

        Raises:
            QuantLayerConfigurationError: when it was asked for one and has none.
        """
        if not self.return_quant_tensor:
            return plain(quant_output)
        if not isinstance(quant_output, QuantTensor):
            raise QuantLayerConfigurationError(_not_quantized(self))
        return quant_output


class SeparableLayerMixin(QuantLayerMixin):
    """A layer without quantizers, whose output channels each depend on their own input channel."""

    @property
    def channelwise_separable(self) -> bool:
        """True: channels are handled one by one."""
        return True

    @property
    def requires_export_handler(self) -> bool:
        """False: exporters write what the layer computes."""
        return False


def _not_quantized(layer: Any) -> str:
    return (
        "QuantLayer is not correctly configured, check if warnings were raised: "
        f"return_quant_tensor=True on {type(layer).__name__}({layer.extra_repr()}), but its output "
        "is not quantized. Give it a quantized input (`input_quant`, or a QuantTensor) together "
        "with a quantized weight, or quantize its output (`output_quant`, `act_quant`); or set "
        "return_quant_tensor=False."
    )

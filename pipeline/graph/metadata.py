"""Shapes and dtypes of a graph that was changed, found anew without arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

if TYPE_CHECKING:
    from torch import fx


def renew_metadata(gm: fx.GraphModule) -> None:
    """Run the graph on shapes, with the batch as symbolic as it was traced.

    The environment of symbolic sizes is shared with the graph this one was copied from: without suppressed guards, a
    comparison in some operator would fix the batch size of both. The Python dispatcher has forms of the recurrent
    operators that take symbolic sizes; the compiled ones do not.
    """
    inputs = [node.meta["val"] for node in gm.graph.nodes if node.op == "placeholder"]
    mode = next(value.fake_mode for value in inputs if isinstance(value, FakeTensor))
    assert mode.shape_env is not None
    with torch.no_grad(), mode.shape_env.suppress_guards(), enable_python_dispatcher():
        FakeTensorProp(gm, mode=mode).propagate_dont_convert_inputs(*inputs)

"""Every method and function of tensors by NumPy is held against torch."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch as real
from checkout import ROOT

from csp_index.tensors import numpy_arithmetic, numpy_functions, numpy_tensor
from csp_index.tensors.library import NumpyLacks, by_numpy, functional, name, need_torch, torch
from csp_index.tensors.numpy_tensor import NumpyTensor

CASES = {
    "add": lambda t, x: [x.f + x.i, x.i + 1.5, 2 - x.f, x.b + x.i, x.f.add_(1)],
    "multiply": lambda t, x: [x.f * x.b, x.i * 0.5, x.f.mul_(x.f), 3 * x.d, x.f[:, None] * x.i[None]],
    "subtract": lambda t, x: [x.f - x.d, x.f.sub_(x.f), 1 - x.i],
    "divide": lambda t, x: [x.i / 2, x.f / x.i, 1 / x.f, x.i / x.i, x.f.div_(2)],
    "whole parts": lambda t, x: [x.i // 2, x.i % 3, -x.i // 2],
    "power": lambda t, x: [0.5 ** t.arange(4).float(), x.f**2],
    "products": lambda t, x: [x.f @ x.f.T, x.cube @ x.cube.mT, x.f.double() @ x.f[0].double()],
    "bits": lambda t, x: [x.i >> 1, x.i << 2, x.i ^ 5, x.i & 3, x.b | ~x.b, (x.i >= 0) & x.b],
    "changed in place": lambda t, x: [_changed(t, x)],
    "compare": lambda t, x: [x.f < x.d, x.f > 0, x.i <= 1, x.i >= x.f, x.i == 2, x.i != x.i.T.T],
    "signs": lambda t, x: [-x.f, x.f.abs(), x.f.square(), x.f.floor(), x.f.ceil()],
    "functions": lambda t, x: [x.f.exp(), x.f.abs().log(), x.f.abs().log1p(), x.f.abs().sqrt(), x.f.sigmoid()],
    "sigmoid in place": lambda t, x: [x.f.clone().sigmoid_()],
    "finite": lambda t, x: [x.nan.isnan(), t.isfinite(x.nan), x.nan.nan_to_num(0.5)],
    "sums": lambda t, x: [x.f.sum(), x.f.sum(0), x.b.sum(1), x.f.sum(1, keepdim=True), x.f.sum(0, dtype=t.float64)],
    "means": lambda t, x: [x.f.mean(1), x.f.mean(), x.f.mean(0, keepdim=True), x.f.std(1), x.f.std(1, correction=0)],
    "largest": lambda t, x: [x.f.amax(1), x.f.amax(0, keepdim=True), x.i.amin(1), x.i.max(), x.b.to(t.uint8).argmax(1)],
    "any and all": lambda t, x: [x.b.any(), x.b.all(), x.b.any(1), x.b.all(0)],
    "running sums": lambda t, x: [x.b.cumsum(1), x.f.cumsum(0)],
    "median": lambda t, x: [x.f.median(), x.f[:, :3].median(), x.i.flatten().median()],
    "sort": lambda t, x: [*x.f.sort(dim=1), *x.i.sort(dim=1, descending=True, stable=True), *x.f.sort(descending=True)],
    "argsort": lambda t, x: [x.i.argsort(stable=True), x.f.argsort(dim=1, descending=True)],
    "topk": lambda t, x: [*x.f.topk(3, dim=1)],
    "unique": lambda t, x: [x.i.unique(), *x.i.unique(return_inverse=True)],
    "places": lambda t, x: [x.b.nonzero(), *x.b.nonzero(as_tuple=True), t.bincount(x.i[0].abs(), minlength=9)],
    "counts": lambda t, x: [x.i.abs().flatten().bincount(), x.i[1].abs().bincount(minlength=9)],
    "gather": lambda t, x: [x.f.gather(1, x.i.abs() % 4), x.f.index_select(0, t.tensor([2, 0])), x.f[x.i.abs() % 5]],
    "index": lambda t, x: [x.f[1], x.f[1:, None], x.f[..., -1], x.f[x.b], x.f[[0, 2]], x.cube[:, t.tensor([1]), 0]],
    "split": lambda t, x: [*x.f.split(2), *x.f[:0].split(2), *x.f.chunk(2, dim=1), *x.f],
    "shapes": lambda t, x: [
        x.f.view(-1),
        x.f.view(2, 10),
        x.f.reshape((4, 5)),
        x.cube.flatten(1),
        x.cube.flatten(0, 1),
    ],
    "types in place": lambda t, x: [x.f.view(t.int32), x.i.double(), x.f.long(), x.i.float(), x.b.to(t.uint8)],
    "repeated": lambda t, x: [x.f[:, :1].expand(-1, 3), x.f.expand(2, -1, -1), x.f[:1].expand_as(x.f)],
    "repeated parts": lambda t, x: [x.f.repeat_interleave(2), x.f.repeat_interleave(3, 1)],
    "turned": lambda t, x: [x.f.T, x.cube.mT, x.cube.transpose(0, 2), x.cube.movedim(2, 0), x.f.T.contiguous()],
    "fill": lambda t, x: [x.f.masked_fill(x.b, -t.inf), x.f[:1].masked_fill(x.b, 1), x.i.masked_fill_(x.b, 7)],
    "cut": lambda t, x: [x.f.clamp(min=0), x.f.clamp(-1, 1), x.i.clamp(max=2), x.f.clamp(min=x.d.float())],
    "between": lambda t, x: [x.f.lerp(x.d.float(), x.f.sigmoid())],
    "scatter": lambda t, x: [t.zeros(5, 4).scatter_add_(1, x.i.abs() % 4, x.f)],
    "made": lambda t, x: [t.zeros(2, 3), t.zeros((2,)), t.ones(2, dtype=t.bool), t.full((2, 2), -1), t.full((1,), 0.5)],
    "made of numbers": lambda t, x: [t.tensor([1, 2]), t.tensor([0.5]), t.arange(3), t.arange(2, 5), t.tensor(1.0)],
    "sizes": lambda t, x: [t.tensor(t.empty(2, 3).shape), t.tensor([x.f.dim(), x.f.numel(), len(x.f), x.f.nbytes])],
    "joined": lambda t, x: [t.cat([x.f, x.f[:0]]), t.cat([x.f, x.f], 1), t.stack([x.f, x.f], 1)],
    "where": lambda t, x: [t.where(x.b, x.f, 0.0), t.where(x.b, x.i, x.f), t.maximum(x.f, x.d), t.isin(x.i, x.i[0])],
    "searched": lambda t, x: [
        t.searchsorted(x.f[0].sort().values, x.f, right=True),
        t.searchsorted(x.f.sort(dim=1).values, x.f),
    ],
    "summed into": lambda t, x: [t.sum(x.f.double(), 1, out=t.zeros(5, dtype=t.float64))],
    "logarithms": lambda t, x: [t.logit(x.f.sigmoid()), t.log(x.f.abs())],
    "unit length": lambda t, x: [t.nn.functional.normalize(x.f, dim=1), t.nn.functional.normalize(x.f[0] * 0, dim=0)],
    "padded": lambda t, x: [t.nn.functional.pad(x.i, (0, 2), value=-1), t.nn.functional.pad(x.f, (1, 0))],
    "weighted rows": lambda t, x: [
        t.nn.functional.embedding_bag(x.i.abs() % 5, x.f, per_sample_weights=x.f, mode="sum"),
    ],
}


class Inputs:
    """The same values for both libraries; of even size, with zeros, negative numbers and NaN."""

    def __init__(self, library) -> None:
        rng = np.random.default_rng(3)

        def tensor(array: np.ndarray):
            return library.from_numpy(array)

        self.f = tensor(rng.normal(size=(5, 4)).astype(np.float32))
        self.d = tensor(rng.normal(size=(5, 4)))
        self.i = tensor(rng.integers(-4, 5, (5, 4)))
        self.b = tensor(rng.random((5, 4)) < 0.4)
        self.cube = tensor(rng.normal(size=(2, 3, 4)).astype(np.float32))
        self.nan = tensor(np.array([0.0, np.nan, np.inf], np.float32))


def _changed(t, x):
    values, mask = x.f.clone(), x.b.clone()
    values[1:3] = 0.0
    values[:, 0] += 1
    values[mask] = 2.0
    mask[:, 1:] |= x.b[:, :-1]
    mask &= values < 2
    return t.where(mask, values, -values)


@pytest.mark.parametrize("case", CASES)
def test_values_types_and_sizes_are_those_of_torch(case):
    with by_numpy():
        by_ours = [value.numpy() for value in CASES[case](torch, Inputs(torch))]
    by_torch = [value.numpy() for value in CASES[case](real, Inputs(real))]
    for ours, theirs in zip(by_ours, by_torch, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        np.testing.assert_allclose(ours, theirs, rtol=2e-6 if theirs.dtype == np.float32 else 1e-12, atol=1e-7)


def test_every_name_has_a_case():
    source = Path(ROOT, "tests/tensors/test_numpy_tensor.py").read_text()
    methods = {key for cls in (NumpyTensor, numpy_arithmetic.Values) for key in vars(cls) if not key.startswith("_")}
    ours = {
        key
        for key, value in vars(numpy_functions).items()
        if getattr(value, "__module__", "") == numpy_functions.__name__
    }
    others = {
        "__getattr__",
        "array",
        "device",
        "shape",
        "dtype",
        "nbytes",
        "cpu",
        "tolist",
        "item",
        "from_numpy",
        "numpy",
    }
    for key in (methods | ours) - others:
        assert re.search(rf"\b{key}\(|\.{key}\b|functional\.{key}\(", source), key


def test_numbers_come_out_as_pythons():
    with by_numpy():
        x = torch.tensor([[2.5]])
        assert (float(x), int(x), bool(x > 2), x.item(), x.tolist(), len(x)) == (2.5, 2, True, 2.5, [[2.5]], 1)
        assert [10, 20][torch.tensor(1)] == 20
        assert (
            x.cpu() is x and x.device.type == "cpu" and x.to(torch.device("cpu"), torch.float64).dtype == torch.float64
        )


def test_a_view_shares_its_memory_and_a_copy_does_not():
    with by_numpy():
        x = torch.zeros(2, 3)
        x.view(-1)[4], x[0][1] = 7.0, 5.0
        x.clone()[0] = 1.0
        assert x.tolist() == [[0, 5, 0], [0, 7, 0]]


@pytest.mark.parametrize(
    "work",
    [
        lambda x: torch.linalg,
        lambda x: torch.bfloat16,
        lambda x: x.norm(),
        lambda x: x.chunk(2, dim=1),
        lambda x: x.gather(1, torch.zeros(1, 1, dtype=torch.int64)),
        lambda x: x.scatter_add_(0, x.long(), x),
        lambda x: x.to("cuda"),
        lambda x: x + real.zeros(2, 3),
        lambda x: functional.embedding_bag(x, x, per_sample_weights=x, mode="mean"),
        lambda x: need_torch("an encoder"),
    ],
)
def test_what_is_lacking_is_refused_and_never_something_else(work):
    with by_numpy(), pytest.raises(NumpyLacks):
        work(torch.zeros(2, 3))


def test_torch_is_itself_outside():
    with by_numpy():
        assert name() == "numpy" and torch.Tensor is numpy_tensor.NumpyTensor
    assert name() == "torch" and torch.Tensor is real.Tensor and functional.pad is real.nn.functional.pad
    need_torch("an encoder")

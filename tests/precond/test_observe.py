"""`precond.observe`: the covariances of inputs and output gradients, against their definitions."""

from __future__ import annotations

import gc

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import precond


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(16, 3, bias=False),
        nn.Linear(3, 3),
    ).double()


def inputs(number: int, size: int = 6) -> Tensor:
    return torch.randn(
        size, 2, 4, 4, generator=torch.Generator().manual_seed(number), dtype=torch.float64
    )


def gram(rows: Tensor, bias: bool) -> Tensor:
    rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=rows.dtype)], 1) if bias else rows
    return rows.T @ rows / len(rows)


def test_input_covariances_weight_all_rows_equally():
    """Batches of different sizes count as one batch; reading in between changes nothing."""
    model, x = net(), torch.cat([inputs(0), inputs(1, size=3)])
    with precond.observe(model) as observer:
        model(x[:6])
        observer.covariances()
        model(x[6:])
        covariances = observer.covariances()
    assert list(covariances) == ["0", "3", "4"]
    for group in range(2):
        patches = F.unfold(x[:, group : group + 1], 3).transpose(1, 2).flatten(0, 1)
        torch.testing.assert_close(covariances["0"][group], gram(patches, bias=True))
    hidden = model[:3](x)
    torch.testing.assert_close(covariances["3"][0], gram(hidden, bias=False))
    torch.testing.assert_close(covariances["4"][0], gram(model[3](hidden), bias=True))


def test_output_gradient_covariances_use_the_loss_of_each_example():
    model, x = net(), inputs(0)
    observer = precond.observe(model, output_gradients=True)
    outputs = model(x)
    outputs.square().sum(1).mean().backward()
    covariances = observer.covariances("output_gradients")
    g = 2 * outputs.detach()
    torch.testing.assert_close(covariances["4"][0], g.T @ g / len(x))
    assert covariances["0"].shape == (2, 2, 2)
    torch.testing.assert_close(observer.covariances()["3"][0], gram(model[:3](x), bias=False))


def test_norms_and_spectra_are_those_of_the_covariances():
    model = net()
    observer = precond.observe(model)
    model(inputs(0))
    covariance = observer.covariances()["0"]
    torch.testing.assert_close(observer.norms()["0"], covariance.square().sum((1, 2)).sqrt())
    spectrum = observer.spectra()["0"]
    assert (spectrum.diff() <= 0).all()
    torch.testing.assert_close(spectrum.sum(1), covariance.diagonal(dim1=1, dim2=2).sum(1))


def test_reset_clears_the_sums_and_close_stops_recording():
    """Layers whose forward did not run, or ran without gradients, are omitted."""
    model = net()
    observer = precond.observe(model)
    assert observer.covariances() == {}
    with torch.no_grad():
        model(inputs(0))
    assert observer.covariances() == {}
    model(inputs(0))
    observer.reset()
    assert observer.norms() == {}
    model(inputs(1))
    norms = observer.norms()
    observer.close()
    model(inputs(2))
    assert all(torch.equal(norm, norms[name]) for name, norm in observer.norms().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_reset_after_close_does_not_record_again():
    """The backward of a forward before `close` still calls the hooks of the outputs."""
    model = net()
    with precond.observe(model, output_gradients=True) as observer:
        outputs = model(inputs(0))
    observer.reset()
    outputs.square().sum().backward()
    assert not observer.covariances() and not observer.covariances("output_gradients")


def test_a_deleted_observer_removes_its_hooks():
    model = net()
    precond.observe(model)
    gc.collect()
    assert not any(module._forward_hooks for module in model.modules())
    model(inputs(0))


def test_an_observer_does_not_change_training():
    results = []
    for watch in (False, True):
        model = net()
        optimizer = precond.FOOF(model, cov_interval=1, inv_interval=1)
        observer = precond.observe(model, output_gradients=True) if watch else None
        for number in range(3):
            optimizer.zero_grad()
            model(inputs(number)).square().mean().backward()
            optimizer.step()
        results.append([p.detach().clone() for p in model.parameters()])
        if observer is not None:
            assert len(observer.covariances("output_gradients")) == 3
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))

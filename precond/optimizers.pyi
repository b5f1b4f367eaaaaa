"""The public optimizers, with the arguments of their update rule and algorithm.

Do not edit: `python tests/precond/test_signatures.py` generates this file from
`precond/optimizers.py`, and a test checks that it is up to date. In a docstring, the parentheses
after an argument contain its symbol in the paper and the allowed values.
"""

from collections.abc import Iterable
from typing import Any, Literal, overload

from torch import Tensor, nn

from precond.algorithms import ggt, mfac, sketchysgd
from precond.optimizer import Preconditioned

# fmt: off


class FOOF(Preconditioned):
    """SGD preconditioned by the damped inverse of the input covariance (Benzing 2022).

    The equations are in `precond.algorithms.foof`.

    Args:
        model: The model to train, plain or compiled.
        params: Parameter groups as in `torch.optim`. Default: one group of all trainable
            parameters.
        rule: The update rule: sgd, adam, sign, orthogonal. The arguments below are those of
            `sgd`; "Update rules" in `docs/algorithms.md` lists those of the other rules.
        lr: Learning rate (eta; a finite number >= 0).
        momentum: Heavy-ball momentum, without dampening (mu; a number in [0, 1)).
        nesterov: Use Nesterov momentum, as in `torch.optim.SGD`. The released code of NysAct does
            not use it in the first step.
        weight_decay: Coefficient of the weight decay, which is not preconditioned (a finite number
            >= 0).
        decoupled: Multiply the weights by 1 - lr x weight_decay, as AdamW does, instead of adding
            the decay to the direction.
        ema_decay: Weight of the old value in the moving averages (beta_2; a number in [0, 1)).
        damping: Added to every eigenvalue before inverting (rho; a finite number > 0).
        cov_interval: Steps between updates of the statistics (tau_cov; an integer >= 1).
        inv_interval: Steps between updates of the factors (tau_inv; an integer >= 1).
        init: Initial value of the covariance: 0, with bias correction (`zero`), or the identity
            matrix, without bias correction (`identity`).
        first_inverse: When to compute the first inverse: at step 0 (`now`), or at step
            `inv_interval`, with unpreconditioned SGD until then (`skip`).

    Example:
        >>> optimizer = precond.FOOF(model, lr=0.1)
        >>> loss_function(model(inputs), targets).backward()
        >>> optimizer.step()
    """

    @overload
    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None, rule: Literal["adam"],
        lr: float | Tensor = 0.001, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-08,
        weight_decay: float = 0.05, ema_decay: float = 0.95, damping: float = 1.0,
        cov_interval: int = 5, inv_interval: int = 50, init: Literal["zero", "identity"] = "zero",
        first_inverse: Literal["now", "skip"] = "now",
    ) -> None: ...
    @overload
    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None, rule: Literal["sign"],
        lr: float | Tensor = 0.001, momentum: float = 0.9, weight_decay: float = 0.05,
        ema_decay: float = 0.95, damping: float = 1.0, cov_interval: int = 5,
        inv_interval: int = 50, init: Literal["zero", "identity"] = "zero",
        first_inverse: Literal["now", "skip"] = "now",
    ) -> None: ...
    @overload
    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None,
        rule: Literal["orthogonal"], lr: float | Tensor = 0.02, momentum: float = 0.95,
        nesterov: bool = True, weight_decay: float = 0.1, ns_steps: int = 5,
        adjust_lr: Literal["original", "match_rms_adamw"] = "original", adam_lr: float = 0.0003,
        adam_betas: tuple[float, float] = (0.9, 0.95), adam_eps: float = 1e-08,
        ema_decay: float = 0.95, damping: float = 1.0, cov_interval: int = 5,
        inv_interval: int = 50, init: Literal["zero", "identity"] = "zero",
        first_inverse: Literal["now", "skip"] = "now",
    ) -> None: ...
    @overload
    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None,
        rule: Literal["sgd"] = "sgd", lr: float | Tensor = 0.1, momentum: float = 0.9,
        nesterov: bool = False, weight_decay: float = 0.0005, decoupled: bool = False,
        ema_decay: float = 0.95, damping: float = 1.0, cov_interval: int = 5,
        inv_interval: int = 50, init: Literal["zero", "identity"] = "zero",
        first_inverse: Literal["now", "skip"] = "now",
    ) -> None: ...


class NysAct(Preconditioned):
    """SGD preconditioned by a Nystrom approximation of the input covariance (Seung et al. 2024).

    The equations are in `precond.algorithms.nysact`.

    Args:
        model: The model to train, plain or compiled.
        params: Parameter groups as in `torch.optim`. Default: one group of all trainable
            parameters.
        rule: The update rule: sgd, adam, sign, orthogonal. The arguments below are those of
            `sgd`; "Update rules" in `docs/algorithms.md` lists those of the other rules.
        lr: Learning rate (eta; a finite number >= 0).
        momentum: Heavy-ball momentum, without dampening (mu; a number in [0, 1)).
        nesterov: Use Nesterov momentum, as in `torch.optim.SGD`. The released code of NysAct does
            not use it in the first step.
        weight_decay: Coefficient of the weight decay, which is not preconditioned (a finite number
            >= 0).
        decoupled: Multiply the weights by 1 - lr x weight_decay, as AdamW does, instead of adding
            the decay to the direction.
        ema_decay: Weight of the old value in the moving averages (beta_2; a number in [0, 1)).
        damping: Added to every eigenvalue before inverting (rho; a finite number > 0).
        cov_interval: Steps between updates of the statistics (tau_cov; an integer >= 1).
        inv_interval: Steps between updates of the factors (tau_inv; an integer >= 1).
        rank: Number of columns of the sketch; at most the number of inputs of the widest layer (r;
            an integer >= 1).
        sketch: Random test matrix of the sketch: columns of the identity (`subcolumn`, which is
            NysAct-S), or a Gaussian matrix (`gaussian`, which is NysAct-G).
        resample: When to draw a new test matrix: never (`fixed`), after each update of the factors
            (`window`), or at each update of the statistics (`joint` and `official`). `joint`
            averages the test matrices in the same way as the sketches, which is consistent only if
            the covariance is the same at all updates; `official` uses the last test matrix, as in
            the released code.
        shift: For stability, multiples of the rows of the test matrix are added to the rows of the
            sketch. The multiples are as small as the rounding error in each row (`tropp`), or all
            equal to `damping` (`damped`). `official` follows the formulas of the released code.
        seed: Seed of the test matrices, combined with the layer's name (an integer >= 0).

    Example:
        >>> optimizer = precond.NysAct(model, lr=0.1, rank=10)
        >>> loss_function(model(inputs), targets).backward()
        >>> optimizer.step()
    """

    @overload
    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None, rule: Literal["adam"],
        lr: float | Tensor = 0.001, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-08,
        weight_decay: float = 0.05, ema_decay: float = 0.95, damping: float = 1.0,
        cov_interval: int = 5, inv_interval: int = 50, rank: int = 10,
        sketch: Literal["subcolumn", "gaussian"] = "subcolumn",
        resample: Literal["fixed", "window", "joint", "official"] = "fixed",
        shift: Literal["tropp", "damped", "official"] = "tropp", seed: int = 0,
    ) -> None: ...
    @overload
    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None, rule: Literal["sign"],
        lr: float | Tensor = 0.001, momentum: float = 0.9, weight_decay: float = 0.05,
        ema_decay: float = 0.95, damping: float = 1.0, cov_interval: int = 5,
        inv_interval: int = 50, rank: int = 10,
        sketch: Literal["subcolumn", "gaussian"] = "subcolumn",
        resample: Literal["fixed", "window", "joint", "official"] = "fixed",
        shift: Literal["tropp", "damped", "official"] = "tropp", seed: int = 0,
    ) -> None: ...
    @overload
    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None,
        rule: Literal["orthogonal"], lr: float | Tensor = 0.02, momentum: float = 0.95,
        nesterov: bool = True, weight_decay: float = 0.1, ns_steps: int = 5,
        adjust_lr: Literal["original", "match_rms_adamw"] = "original", adam_lr: float = 0.0003,
        adam_betas: tuple[float, float] = (0.9, 0.95), adam_eps: float = 1e-08,
        ema_decay: float = 0.95, damping: float = 1.0, cov_interval: int = 5,
        inv_interval: int = 50, rank: int = 10,
        sketch: Literal["subcolumn", "gaussian"] = "subcolumn",
        resample: Literal["fixed", "window", "joint", "official"] = "fixed",
        shift: Literal["tropp", "damped", "official"] = "tropp", seed: int = 0,
    ) -> None: ...
    @overload
    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None,
        rule: Literal["sgd"] = "sgd", lr: float | Tensor = 0.1, momentum: float = 0.9,
        nesterov: bool = False, weight_decay: float = 0.0005, decoupled: bool = False,
        ema_decay: float = 0.95, damping: float = 1.0, cov_interval: int = 5,
        inv_interval: int = 50, rank: int = 10,
        sketch: Literal["subcolumn", "gaussian"] = "subcolumn",
        resample: Literal["fixed", "window", "joint", "official"] = "fixed",
        shift: Literal["tropp", "damped", "official"] = "tropp", seed: int = 0,
    ) -> None: ...


class KFAC(Preconditioned):
    """SGD preconditioned by Kronecker-factored curvature (Martens and Grosse 2015).

    The equations are in `precond.algorithms.kfac`.

    Args:
        model: The model to train, plain or compiled.
        params: Parameter groups as in `torch.optim`. Default: one group of all trainable
            parameters.
        rule: The update rule: sgd, adam, sign, orthogonal. The arguments below are those of
            `sgd`; "Update rules" in `docs/algorithms.md` lists those of the other rules.
        lr: Learning rate (eta; a finite number >= 0).
        momentum: Heavy-ball momentum, without dampening (mu; a number in [0, 1)).
        nesterov: Use Nesterov momentum, as in `torch.optim.SGD`. The released code of NysAct does
            not use it in the first step.
        weight_decay: Coefficient of the weight decay, which is not preconditioned (a finite number
            >= 0).
        decoupled: Multiply the weights by 1 - lr x weight_decay, as AdamW does, instead of adding
            the decay to the direction.
        ema_decay: Weight of the old value in the moving averages (beta_2; a number in [0, 1)).
        damping: Added to the eigenvalues of the curvature before inverting; see `damping_rule`
            (rho; a finite number > 0).
        cov_interval: Steps between updates of the statistics (tau_cov; an integer >= 1).
        inv_interval: Steps between updates of the factors (tau_inv; an integer >= 1).
        damping_rule: Add multiples of sqrt(damping) to the covariances of the inputs and of the
            output gradients (`factored`), or add `damping` to their Kronecker product (`eigen`).
        kl_clip: Bound of the KL-clip: if q, the absolute value of the sum of lr^2 <direction,
            gradient> over the layers, exceeds the bound, multiply all directions by sqrt(bound /
            q). None disables the clip (kappa; a finite number > 0, or None).
        sharing: Use of the positions (pixels or tokens) of one example in the covariances: each
            position is a separate row (`expand`), or the inputs are first averaged and the output
            gradients summed over the positions (`reduce`).
        g_scale: Output gradients in their covariance: those of each example's loss, summed over
            positions (`fisher`, the scale of the Fisher matrix), or those of the batch's mean loss,
            averaged over positions (`official`, as in the released code).
        init: Initial value of both covariances: 0, with bias correction (`zero`), or, without bias
            correction, the identity matrix (`identity`) or the value of the first update (`first`).

    Example:
        >>> optimizer = precond.KFAC(model, lr=0.1, damping=1.0)
        >>> loss_function(model(inputs), targets).backward()
        >>> optimizer.step()
    """

    @overload
    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None, rule: Literal["adam"],
        lr: float | Tensor = 0.001, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-08,
        weight_decay: float = 0.05, ema_decay: float = 0.95, damping: float = 1.0,
        cov_interval: int = 5, inv_interval: int = 50,
        damping_rule: Literal["factored", "eigen"] = "factored", kl_clip: float | None = 0.001,
        sharing: Literal["expand", "reduce"] = "expand",
        g_scale: Literal["fisher", "official"] = "fisher",
        init: Literal["zero", "identity", "first"] = "zero",
    ) -> None: ...
    @overload
    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None, rule: Literal["sign"],
        lr: float | Tensor = 0.001, momentum: float = 0.9, weight_decay: float = 0.05,
        ema_decay: float = 0.95, damping: float = 1.0, cov_interval: int = 5,
        inv_interval: int = 50, damping_rule: Literal["factored", "eigen"] = "factored",
        kl_clip: float | None = 0.001, sharing: Literal["expand", "reduce"] = "expand",
        g_scale: Literal["fisher", "official"] = "fisher",
        init: Literal["zero", "identity", "first"] = "zero",
    ) -> None: ...
    @overload
    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None,
        rule: Literal["orthogonal"], lr: float | Tensor = 0.02, momentum: float = 0.95,
        nesterov: bool = True, weight_decay: float = 0.1, ns_steps: int = 5,
        adjust_lr: Literal["original", "match_rms_adamw"] = "original", adam_lr: float = 0.0003,
        adam_betas: tuple[float, float] = (0.9, 0.95), adam_eps: float = 1e-08,
        ema_decay: float = 0.95, damping: float = 1.0, cov_interval: int = 5,
        inv_interval: int = 50, damping_rule: Literal["factored", "eigen"] = "factored",
        kl_clip: float | None = 0.001, sharing: Literal["expand", "reduce"] = "expand",
        g_scale: Literal["fisher", "official"] = "fisher",
        init: Literal["zero", "identity", "first"] = "zero",
    ) -> None: ...
    @overload
    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None,
        rule: Literal["sgd"] = "sgd", lr: float | Tensor = 0.1, momentum: float = 0.9,
        nesterov: bool = False, weight_decay: float = 0.0005, decoupled: bool = False,
        ema_decay: float = 0.95, damping: float = 1.0, cov_interval: int = 5,
        inv_interval: int = 50, damping_rule: Literal["factored", "eigen"] = "factored",
        kl_clip: float | None = 0.001, sharing: Literal["expand", "reduce"] = "expand",
        g_scale: Literal["fisher", "official"] = "fisher",
        init: Literal["zero", "identity", "first"] = "zero",
    ) -> None: ...


class SKFAC(Preconditioned):
    """SGD preconditioned by the Kronecker-factored curvature of one batch (Tang et al. 2021).

    The equations are in `precond.algorithms.skfac`.

    Args:
        model: The model to train, plain or compiled.
        params: Parameter groups as in `torch.optim`. Default: one group of all trainable
            parameters.
        rule: The update rule: sgd, adam, sign, orthogonal. The arguments below are those of
            `sgd`; "Update rules" in `docs/algorithms.md` lists those of the other rules.
        lr: Learning rate (eta; a finite number >= 0).
        momentum: Heavy-ball momentum, without dampening (mu; a number in [0, 1)).
        nesterov: Use Nesterov momentum, as in `torch.optim.SGD`. The released code of NysAct does
            not use it in the first step.
        weight_decay: Coefficient of the weight decay, which is not preconditioned (a finite number
            >= 0).
        decoupled: Multiply the weights by 1 - lr x weight_decay, as AdamW does, instead of adding
            the decay to the direction.
        damping: Its square root is added to the eigenvalues of both factors before inverting (rho;
            a finite number > 0).
        inv_interval: Number of steps between computations of the inverses (tau_inv; an integer >=
            1).
        kl_clip: Bound of the KL-clip: if q, the absolute value of the sum of lr^2 <direction,
            gradient> over the layers, exceeds the bound, multiply all directions by sqrt(bound /
            q). None disables the clip (kappa; a finite number > 0, or None).
        g_scale: Output gradients in their factor: those of each example's loss, summed over
            positions (`fisher`, the scale of the Fisher matrix), or those of the batch's mean loss,
            averaged over positions (`official`).

    Example:
        >>> optimizer = precond.SKFAC(model, lr=0.1, damping=1.0)
        >>> loss_function(model(inputs), targets).backward()
        >>> optimizer.step()
    """

    @overload
    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None, rule: Literal["adam"],
        lr: float | Tensor = 0.001, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-08,
        weight_decay: float = 0.05, damping: float = 1.0, inv_interval: int = 50,
        kl_clip: float | None = 0.001, g_scale: Literal["fisher", "official"] = "fisher",
    ) -> None: ...
    @overload
    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None, rule: Literal["sign"],
        lr: float | Tensor = 0.001, momentum: float = 0.9, weight_decay: float = 0.05,
        damping: float = 1.0, inv_interval: int = 50, kl_clip: float | None = 0.001,
        g_scale: Literal["fisher", "official"] = "fisher",
    ) -> None: ...
    @overload
    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None,
        rule: Literal["orthogonal"], lr: float | Tensor = 0.02, momentum: float = 0.95,
        nesterov: bool = True, weight_decay: float = 0.1, ns_steps: int = 5,
        adjust_lr: Literal["original", "match_rms_adamw"] = "original", adam_lr: float = 0.0003,
        adam_betas: tuple[float, float] = (0.9, 0.95), adam_eps: float = 1e-08,
        damping: float = 1.0, inv_interval: int = 50, kl_clip: float | None = 0.001,
        g_scale: Literal["fisher", "official"] = "fisher",
    ) -> None: ...
    @overload
    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None,
        rule: Literal["sgd"] = "sgd", lr: float | Tensor = 0.1, momentum: float = 0.9,
        nesterov: bool = False, weight_decay: float = 0.0005, decoupled: bool = False,
        damping: float = 1.0, inv_interval: int = 50, kl_clip: float | None = 0.001,
        g_scale: Literal["fisher", "official"] = "fisher",
    ) -> None: ...


class KBFGS(Preconditioned):
    """SGD preconditioned by Kronecker-factored BFGS (Goldfarb et al. 2020).

    The equations are in `precond.algorithms.kbfgs`.

    Args:
        model: The model to train, plain or compiled.
        params: Parameter groups as in `torch.optim`. Default: one group of all trainable
            parameters.
        rule: The update rule: sgd, adam, sign, orthogonal. The arguments below are those of
            `sgd`; "Update rules" in `docs/algorithms.md` lists those of the other rules.
        lr: Learning rate (eta; a finite number >= 0).
        momentum: Heavy-ball momentum, without dampening (mu; a number in [0, 1)).
        nesterov: Use Nesterov momentum, as in `torch.optim.SGD`. The released code of NysAct does
            not use it in the first step.
        weight_decay: Coefficient of the weight decay, which is not preconditioned (a finite number
            >= 0).
        decoupled: Multiply the weights by 1 - lr x weight_decay, as AdamW does, instead of adding
            the decay to the direction.
        damping: Its square root is added to the eigenvalues of the inputs' covariance, and is a
            lower bound on the curvature of the pairs that update the factor of the outputs (rho; a
            number in (0, 1]).
        ema_decay: Weight of the old value in the averages of the covariance and of the pairs (beta;
            a number in [0, 1)).

    Example:
        >>> optimizer = precond.KBFGS(model, lr=0.1, damping=0.3)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = loss_function(model(inputs), targets)
        ...     loss.backward()
        ...     return loss
        >>> optimizer.step(closure)
    """

    @overload
    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None, rule: Literal["adam"],
        lr: float | Tensor = 0.001, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-08,
        weight_decay: float = 0.05, damping: float = 0.3, ema_decay: float = 0.9,
    ) -> None: ...
    @overload
    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None, rule: Literal["sign"],
        lr: float | Tensor = 0.001, momentum: float = 0.9, weight_decay: float = 0.05,
        damping: float = 0.3, ema_decay: float = 0.9,
    ) -> None: ...
    @overload
    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None,
        rule: Literal["orthogonal"], lr: float | Tensor = 0.02, momentum: float = 0.95,
        nesterov: bool = True, weight_decay: float = 0.1, ns_steps: int = 5,
        adjust_lr: Literal["original", "match_rms_adamw"] = "original", adam_lr: float = 0.0003,
        adam_betas: tuple[float, float] = (0.9, 0.95), adam_eps: float = 1e-08,
        damping: float = 0.3, ema_decay: float = 0.9,
    ) -> None: ...
    @overload
    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None,
        rule: Literal["sgd"] = "sgd", lr: float | Tensor = 0.1, momentum: float = 0.9,
        nesterov: bool = False, weight_decay: float = 0.0005, decoupled: bool = False,
        damping: float = 0.3, ema_decay: float = 0.9,
    ) -> None: ...


class KBFGSL(Preconditioned):
    """SGD preconditioned by Kronecker-factored L-BFGS (Goldfarb et al. 2020).

    The equations are in `precond.algorithms.kbfgs`.

    Args:
        model: The model to train, plain or compiled.
        params: Parameter groups as in `torch.optim`. Default: one group of all trainable
            parameters.
        rule: The update rule: sgd, adam, sign, orthogonal. The arguments below are those of
            `sgd`; "Update rules" in `docs/algorithms.md` lists those of the other rules.
        lr: Learning rate (eta; a finite number >= 0).
        momentum: Heavy-ball momentum, without dampening (mu; a number in [0, 1)).
        nesterov: Use Nesterov momentum, as in `torch.optim.SGD`. The released code of NysAct does
            not use it in the first step.
        weight_decay: Coefficient of the weight decay, which is not preconditioned (a finite number
            >= 0).
        decoupled: Multiply the weights by 1 - lr x weight_decay, as AdamW does, instead of adding
            the decay to the direction.
        damping: Its square root is added to the eigenvalues of the inputs' covariance, and is a
            lower bound on the curvature of the pairs that update the factor of the outputs (rho; a
            number in (0, 1]).
        ema_decay: Weight of the old value in the averages of the covariance and of the pairs (beta;
            a number in [0, 1)).
        memory: Number of pairs from which the factor of the outputs is computed (m; an integer >=
            1).

    Example:
        >>> optimizer = precond.KBFGSL(model, lr=0.1, memory=100)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = loss_function(model(inputs), targets)
        ...     loss.backward()
        ...     return loss
        >>> optimizer.step(closure)
    """

    @overload
    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None, rule: Literal["adam"],
        lr: float | Tensor = 0.001, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-08,
        weight_decay: float = 0.05, damping: float = 0.3, ema_decay: float = 0.9,
        memory: int = 100,
    ) -> None: ...
    @overload
    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None, rule: Literal["sign"],
        lr: float | Tensor = 0.001, momentum: float = 0.9, weight_decay: float = 0.05,
        damping: float = 0.3, ema_decay: float = 0.9, memory: int = 100,
    ) -> None: ...
    @overload
    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None,
        rule: Literal["orthogonal"], lr: float | Tensor = 0.02, momentum: float = 0.95,
        nesterov: bool = True, weight_decay: float = 0.1, ns_steps: int = 5,
        adjust_lr: Literal["original", "match_rms_adamw"] = "original", adam_lr: float = 0.0003,
        adam_betas: tuple[float, float] = (0.9, 0.95), adam_eps: float = 1e-08,
        damping: float = 0.3, ema_decay: float = 0.9, memory: int = 100,
    ) -> None: ...
    @overload
    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None,
        rule: Literal["sgd"] = "sgd", lr: float | Tensor = 0.1, momentum: float = 0.9,
        nesterov: bool = False, weight_decay: float = 0.0005, decoupled: bool = False,
        damping: float = 0.3, ema_decay: float = 0.9, memory: int = 100,
    ) -> None: ...


class Eva(Preconditioned):
    """SGD preconditioned by rank-one curvature (Zhang et al. 2023).

    The equations are in `precond.algorithms.eva`.

    Args:
        model: The model to train, plain or compiled.
        params: Parameter groups as in `torch.optim`. Default: one group of all trainable
            parameters.
        rule: The update rule: sgd, adam, sign, orthogonal. The arguments below are those of
            `sgd`; "Update rules" in `docs/algorithms.md` lists those of the other rules.
        lr: Learning rate (eta; a finite number >= 0).
        momentum: Heavy-ball momentum, without dampening (mu; a number in [0, 1)).
        nesterov: Use Nesterov momentum, as in `torch.optim.SGD`. The released code of NysAct does
            not use it in the first step.
        weight_decay: Coefficient of the weight decay, which is not preconditioned (a finite number
            >= 0).
        decoupled: Multiply the weights by 1 - lr x weight_decay, as AdamW does, instead of adding
            the decay to the direction.
        ema_decay: Weight of the old value in the moving averages (1 - xi; a number in [0, 1)).
        damping: Added to every eigenvalue of the curvature before inverting (rho; a finite number >
            0).
        cov_interval: Number of steps between updates of the means and of the preconditioner
            (tau_cov; an integer >= 1).
        kl_clip: Bound of the KL-clip: if q, the absolute value of the sum of lr^2 <direction,
            gradient> over the layers, exceeds the bound, multiply all directions by sqrt(bound /
            q). None disables the clip (kappa; a finite number > 0, or None).
        g_scale: Output gradients in the mean: those of each example's loss, summed over positions
            (`fisher`, the scale of the Fisher matrix), or those of the batch's mean loss, averaged
            over positions (`official`, as in the released code).
        ema_init: Initial value of the averages: 0, with bias correction (`zero`), or the value of
            the first update, without bias correction (`first`).

    Example:
        >>> optimizer = precond.Eva(model, lr=0.1)
        >>> loss_function(model(inputs), targets).backward()
        >>> optimizer.step()
    """

    @overload
    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None, rule: Literal["adam"],
        lr: float | Tensor = 0.001, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-08,
        weight_decay: float = 0.05, ema_decay: float = 0.95, damping: float = 1.0,
        cov_interval: int = 5, kl_clip: float | None = 0.001,
        g_scale: Literal["fisher", "official"] = "fisher",
        ema_init: Literal["zero", "first"] = "zero",
    ) -> None: ...
    @overload
    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None, rule: Literal["sign"],
        lr: float | Tensor = 0.001, momentum: float = 0.9, weight_decay: float = 0.05,
        ema_decay: float = 0.95, damping: float = 1.0, cov_interval: int = 5,
        kl_clip: float | None = 0.001, g_scale: Literal["fisher", "official"] = "fisher",
        ema_init: Literal["zero", "first"] = "zero",
    ) -> None: ...
    @overload
    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None,
        rule: Literal["orthogonal"], lr: float | Tensor = 0.02, momentum: float = 0.95,
        nesterov: bool = True, weight_decay: float = 0.1, ns_steps: int = 5,
        adjust_lr: Literal["original", "match_rms_adamw"] = "original", adam_lr: float = 0.0003,
        adam_betas: tuple[float, float] = (0.9, 0.95), adam_eps: float = 1e-08,
        ema_decay: float = 0.95, damping: float = 1.0, cov_interval: int = 5,
        kl_clip: float | None = 0.001, g_scale: Literal["fisher", "official"] = "fisher",
        ema_init: Literal["zero", "first"] = "zero",
    ) -> None: ...
    @overload
    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None,
        rule: Literal["sgd"] = "sgd", lr: float | Tensor = 0.1, momentum: float = 0.9,
        nesterov: bool = False, weight_decay: float = 0.0005, decoupled: bool = False,
        ema_decay: float = 0.95, damping: float = 1.0, cov_interval: int = 5,
        kl_clip: float | None = 0.001, g_scale: Literal["fisher", "official"] = "fisher",
        ema_init: Literal["zero", "first"] = "zero",
    ) -> None: ...


class EKFAC(Preconditioned):
    """SGD preconditioned by second moments in KFAC's eigenbasis (George et al. 2018).

    The equations are in `precond.algorithms.ekfac`.

    Args:
        model: The model to train, plain or compiled.
        params: Parameter groups as in `torch.optim`. Default: one group of all trainable
            parameters.
        rule: The update rule: sgd, adam, sign, orthogonal. The arguments below are those of
            `sgd`; "Update rules" in `docs/algorithms.md` lists those of the other rules.
        lr: Learning rate (eta; a finite number >= 0).
        momentum: Heavy-ball momentum, without dampening (mu; a number in [0, 1)).
        nesterov: Use Nesterov momentum, as in `torch.optim.SGD`. The released code of NysAct does
            not use it in the first step.
        weight_decay: Coefficient of the weight decay, which is not preconditioned (a finite number
            >= 0).
        decoupled: Multiply the weights by 1 - lr x weight_decay, as AdamW does, instead of adding
            the decay to the direction.
        damping: Added to the second moments S before dividing by them (rho; a finite number > 0).
        basis_interval: Number of steps between computations of the eigenbases (n; an integer >= 1).
        second_moment: The squares that S averages over steps: the squared gradient of each example
            (`per_example`), or the batch size times the squared mean gradient (`running`). The
            latter uses the gradients of the parameters, which `grad_output_scale` does not change.
        ema_decay: Weight of the old value in the moving average S (beta; a number in [0, 1)).

    Example:
        >>> optimizer = precond.EKFAC(model, lr=0.1, basis_interval=500)
        >>> loss_function(model(inputs), targets).backward()
        >>> optimizer.step()
    """

    @overload
    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None, rule: Literal["adam"],
        lr: float | Tensor = 0.001, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-08,
        weight_decay: float = 0.05, damping: float = 3.0, basis_interval: int = 500,
        second_moment: Literal["per_example", "running"] = "per_example", ema_decay: float = 0.9,
    ) -> None: ...
    @overload
    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None, rule: Literal["sign"],
        lr: float | Tensor = 0.001, momentum: float = 0.9, weight_decay: float = 0.05,
        damping: float = 3.0, basis_interval: int = 500,
        second_moment: Literal["per_example", "running"] = "per_example", ema_decay: float = 0.9,
    ) -> None: ...
    @overload
    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None,
        rule: Literal["orthogonal"], lr: float | Tensor = 0.02, momentum: float = 0.95,
        nesterov: bool = True, weight_decay: float = 0.1, ns_steps: int = 5,
        adjust_lr: Literal["original", "match_rms_adamw"] = "original", adam_lr: float = 0.0003,
        adam_betas: tuple[float, float] = (0.9, 0.95), adam_eps: float = 1e-08,
        damping: float = 3.0, basis_interval: int = 500,
        second_moment: Literal["per_example", "running"] = "per_example", ema_decay: float = 0.9,
    ) -> None: ...
    @overload
    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None,
        rule: Literal["sgd"] = "sgd", lr: float | Tensor = 0.1, momentum: float = 0.9,
        nesterov: bool = False, weight_decay: float = 0.0005, decoupled: bool = False,
        damping: float = 3.0, basis_interval: int = 500,
        second_moment: Literal["per_example", "running"] = "per_example", ema_decay: float = 0.9,
    ) -> None: ...


class STEVE(Preconditioned):
    """Adam in the eigenbasis of KFAC.

    The equations are in `precond.algorithms.steve`.

    Args:
        model: The model to train, plain or compiled.
        params: Parameter groups as in `torch.optim`. Default: one group of all trainable
            parameters.
        lr: Learning rate (eta; a finite number >= 0).
        weight_decay: Decoupled weight decay, as in AdamW (a finite number >= 0).
        betas: Weights of the old values in the first moment m and in the second moment v (b1, b2;
            two numbers in [0, 1)).
        eps: Added to the square root of the second moment (a finite number > 0).
        basis_interval: Number of steps between computations of the eigenbases (n; an integer >= 1).
        bias_correction: Divisor of a moment with weight b after c updates: 1 - b^c (`adam`), or the
            square root of 1 - b^c (`paper`).
        second_moment: The squares that v averages over steps: the squared mean gradient of the
            batch (`minibatch`), or the squared gradient of each example (`per_example`).
        on_refresh: Change of the moments when new eigenbases are computed: set m and v to 0
            (`reset`), rotate m into the new bases and restart v from the squares of the rotated m
            (`rotate_m`), rotate m and v (`rotate_mv`), or rotate m and do not change v (`keep_v`).
        factor_ema: Weight of the old value in moving averages of the covariances; None computes the
            eigenbases from the covariances of the current step alone (a number in [0, 1), or None).
        fallback: Update rule for parameters without an eigenbasis: Adam (`adam`), or SGD without
            momentum (`sgd`).

    Example:
        >>> optimizer = precond.STEVE(model, lr=1e-3, basis_interval=500)
        >>> loss_function(model(inputs), targets).backward()
        >>> optimizer.step()
    """

    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None, lr: float | Tensor = 0.001,
        weight_decay: float = 0.0, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-08,
        basis_interval: int = 500, bias_correction: Literal["adam", "paper"] = "adam",
        second_moment: Literal["minibatch", "per_example"] = "minibatch",
        on_refresh: Literal["reset", "rotate_m", "rotate_mv", "keep_v"] = "reset",
        factor_ema: float | None = None, fallback: Literal["adam", "sgd"] = "adam",
    ) -> None: ...


class SketchySGD(sketchysgd.SketchySGD):
    """SGD preconditioned by a sketch of the whole model's Hessian (Frangella et al. 2024).

    The equations are in `precond.algorithms.sketchysgd`.

    Args:
        model: The model to train, plain or compiled.
        params: Parameter groups as in `torch.optim`. Default: one group of all trainable
            parameters.
        lr: Learning rate (a finite number >= 0).
        momentum: Momentum of the gradients, before they are preconditioned (mu; a number in [0,
            1)).
        weight_decay: Decoupled weight decay, as in AdamW (wd; a finite number >= 0).
        rank: Number of columns of the sketch (r; an integer >= 1).
        damping: Added to every eigenvalue before inverting (rho; a finite number > 0).
        interval: Number of steps between sketches of the Hessian (tau; an integer >= 1).
        seed: Seed of the test matrices (an integer >= 0).

    Example:
        >>> optimizer = precond.SketchySGD(model, lr=1e-3, rank=10)
        >>> optimizer.backward(loss_function(model(inputs), targets))
        >>> optimizer.step()
    """

    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None, lr: float | Tensor = 0.001,
        momentum: float = 0.9, weight_decay: float = 0.0, rank: int = 10, damping: float = 0.1,
        interval: int = 100, seed: int = 0,
    ) -> None: ...


class GGT(ggt.GGT):
    """SGD preconditioned by the inverse square root of the last gradients (Agarwal et al. 2019).

    The equations are in `precond.algorithms.ggt`.

    Args:
        model: The model to train, plain or compiled.
        params: Parameter groups as in `torch.optim`. Default: one group of all trainable
            parameters.
        lr: Learning rate (a finite number >= 0).
        momentum: Momentum of the gradients, before they are preconditioned (mu; a number in [0,
            1)).
        weight_decay: Decoupled weight decay, as in AdamW (a finite number >= 0).
        window: Number of gradients in the window (w; an integer >= 1).
        decay: Weight of a gradient's outer product relative to that of the next gradient; 1 weights
            all gradients of the window equally (a number in [0, 1]).
        eps: Eigenvalues of at most eps x the largest eigenvalue count as zero (a number in [0, 1)).

    Example:
        >>> optimizer = precond.GGT(model, lr=0.01, window=100)
        >>> loss_function(model(inputs), targets).backward()
        >>> optimizer.step()
    """

    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None, lr: float | Tensor = 0.01,
        momentum: float = 0.9, weight_decay: float = 0.0, window: int = 100, decay: float = 1.0,
        eps: float = 0.0001,
    ) -> None: ...


class MFAC(mfac.MFAC):
    """SGD preconditioned by the Fisher matrix of the last gradients (Frantar et al. 2021).

    The equations are in `precond.algorithms.mfac`.

    Args:
        model: The model to train, plain or compiled.
        params: Parameter groups as in `torch.optim`. Default: one group of all trainable
            parameters.
        lr: Learning rate (a finite number >= 0).
        momentum: Weight of the old value in the moving average of the directions (mu; a number in
            [0, 1)).
        weight_decay: Decoupled weight decay, as in AdamW (a finite number >= 0).
        window: Number of gradients in the window (w; an integer >= 1).
        damping: Added to every eigenvalue of the Fisher matrix before inverting (rho; a finite
            number > 0).

    Example:
        >>> optimizer = precond.MFAC(model, lr=1e-3, window=128)
        >>> loss_function(model(inputs), targets).backward()
        >>> optimizer.step()
    """

    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None, lr: float | Tensor = 0.001,
        momentum: float = 0.9, weight_decay: float = 0.0, window: int = 1024,
        damping: float = 1e-05,
    ) -> None: ...

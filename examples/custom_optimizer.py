"""Compare a user-defined optimizer with NysAct and SGD: `python examples/custom_optimizer.py --seeds 3`.

The same optimizer takes part in any other study:
`python studies/ablation_rank.py --plugin examples/custom_optimizer.py --optimizers signsgd,sgd`.
"""

import torch

from studies import Arm, CurveFigure, NotWorse, Study, main
from trainables.plugins import optimizer


class SignSGD(torch.optim.Optimizer):
    """Update each parameter by the sign of its gradient (Bernstein et al., ICML 2018)."""

    @torch.no_grad()
    def step(self, closure=None):
        """Perform one step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad.sign(), alpha=group["lr"])


@optimizer
def signsgd(model, *, lr: float = 0.001):
    """Build the optimizer of a trial; each keyword-only argument is a hyperparameter."""
    return SignSGD(model.parameters(), {"lr": lr})


STUDY = Study(
    name="signsgd",
    title="signSGD beside NysAct and SGD",
    claims=[NotWorse("signsgd", than="sgd")],
    arms=[Arm(optimizer="signsgd"), Arm(optimizer="nysact-s"), Arm(optimizer="sgd")],
    figure=CurveFigure(references=("sgd",)),
)

if __name__ == "__main__":
    main(STUDY, plugin=__file__)

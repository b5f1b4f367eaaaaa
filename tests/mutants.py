"""Are the tests worth anything? Each bug below is put into a copy of the repository, and its test must fail there.

    python tests/mutants.py [WORD ...]      all, or those whose description has every word

Not a test: it takes minutes. It fails when a mutant survives, when a named test fails without a mutant, and when the
text that a mutant replaces is not there exactly once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("precond", "trainables", "studies", "tests", "pyproject.toml", "cluster.yaml", "cluster.local.yaml")
AT_A_TIME = 2
# With the copy's package, not an installed one, or every mutant would survive.
RUN = """
import sys, precond, pytest
assert precond.__file__.startswith(sys.argv[1]), precond.__file__
sys.exit(pytest.main(sys.argv[2:]))
"""
TIMEOUT = 300  # seconds


@dataclass(frozen=True)
class Mutant:
    """A bug, as one replacement in one file.

    Attributes:
        file: Where.
        old: Text that is there once.
        new: What replaces it.
        test: The pytest node that must fail then.
        bug: What it is.
    """

    file: str
    old: str
    new: str
    test: str
    bug: str


SCREEN = "tests/studies/test_screen.py::"
NYSACT = "precond/algorithms/nysact.py"
FOOF = "precond/algorithms/foof.py"
STATISTICS = "precond/parts/statistics.py"
FACTORS = "precond/parts/factors.py"
LINALG = "precond/parts/linalg.py"
LAYERS = "precond/layers.py"
ROWS = "precond/parts/rows.py"
CORRELATIONS = "precond/parts/correlations.py"
SKETCHES = "precond/parts/sketches.py"
BANK = "precond/bank.py"
STACKS = "precond/parts/stacks.py"
CAPTURE = "precond/capture.py"
COMPILED = "precond/compiled.py"
SCALING = "precond/scaling.py"
OPTIMIZER = "precond/optimizer.py"
DIAGNOSTICS = "tests/precond/test_diagnostics.py::"
RULES = "precond/rules.py"
KFAC = "precond/algorithms/kfac.py"
EVA = "precond/algorithms/eva.py"
EKFAC = "precond/algorithms/ekfac.py"
STEVE = "precond/algorithms/steve.py"
PAIRS = "precond/parts/pairs.py"
DISTRIBUTED = "precond/distributed.py"
KFAC_EVA = "tests/precond/test_kfac_eva.py"
EKFAC_STEVE = "tests/precond/test_ekfac_steve.py"

DATA = "trainables/data/"
TRAIN = "trainables/train.py"
DESCENT = "trainables/descent.py"
LOOP = "tests/trainables/test_loop.py::"
WORKLOADS = "tests/trainables/test_workloads.py::"
RECIPES = "tests/trainables/test_recipes.py::"

ORACLES = "tests/precond/test_oracles.py::"
VARIANTS = "tests/precond/test_variants.py::"
CONTRACT = "tests/precond/test_contract.py::"
SAFETY = "tests/precond/test_safety.py::"
MODES = "tests/precond/test_modes.py::"
TEST_LAYERS = "tests/precond/test_layers.py::"
TEST_OPTIMIZER = "tests/precond/test_optimizer.py::"
TOGETHER = "tests/precond/test_distributed.py::test_two_ranks_are_one_process_with_the_whole_batch"
CONVOLUTION = TEST_LAYERS + "test_a_convolution_equals_its_unfolded_patches"

CONTRASTS = "studies/harness/evidence/contrasts.py"
VERDICTS = "studies/harness/published/verdicts.py"
PROBE = "studies/harness/kinds/probe/probe.py"
PROBES = "tests/studies/test_probes.py::"
SEARCHES = "tests/studies/test_search.py::"

MUTANTS = [
    # Data
    Mutant(
        DATA + "cache.py",
        'aside = folder.with_name(folder.name + ".tmp")',
        "aside = folder",
        "tests/trainables/test_data.py::test_a_process_killed_while_making_the_cache_leaves_none_and_of_two_one_makes_it",
        "data: a killed process leaves half a cache",
    ),
    Mutant(
        DATA + "cache.py",
        "if _read(place / name) is None:  # else",
        "if True:  # else",
        "tests/trainables/test_data.py::test_a_process_killed_while_making_the_cache_leaves_none_and_of_two_one_makes_it",
        "data: two processes make the same cache",
    ),
    Mutant(
        DATA + "cache.py",
        "stat.st_size, stat.st_mtime_ns",
        "0, 0",
        "tests/trainables/test_data.py::test_the_cache_is_made_once_and_follows_the_files",
        "data: a changed image is not noticed",
    ),
    Mutant(
        DATA + "augment.py",
        "offsets[:, 0], offsets[:, 1]]",
        "offsets[:, 1], offsets[:, 0]]",
        "tests/trainables/test_data.py::test_crop_and_flip_are_those_of_a_loop_over_images",
        "data: a crop's top and left are exchanged",
    ),
    Mutant(
        DATA + "augment.py",
        "fits.int().argmax(1)",
        "fits.int().argmin(1)",
        "tests/trainables/test_data.py::test_erased_boxes_fit_and_are_drawn_as_torchvision_does",
        "data: an erased box need not fit",
    ),
    Mutant(
        DATA + "device.py",
        "(n, 2), generator=generator)",
        "(n, 2))",
        "tests/trainables/test_data.py::test_an_epoch_is_decided_by_its_seed_alone",
        "data: crops come from torch's own generator",
    ),
    Mutant(
        DATA + "base.py",
        "(rank + 1) * batch_size // ranks)",
        "(rank + 1) * (batch_size // ranks))",
        "tests/trainables/test_data.py::test_shares_cover_a_batch",
        "data: unequal shares of a batch lose images",
    ),
    Mutant(
        DATA + "loader.py",
        "generator=Generator(),  # else",
        "generator=None,  # else",
        "tests/trainables/test_data.py::test_an_epoch_is_decided_by_its_seed_alone",
        "data: the loader moves torch's own generator",
    ),
    Mutant(
        DATA + "loader.py",
        "torch.default_generator.manual_seed(seed)",
        "torch.default_generator.manual_seed(position)",
        "tests/trainables/test_data.py::test_repeated_augmentation_shows_an_image_again_at_once",
        "data: an image is augmented alike each time",
    ),
    Mutant(
        DATA + "loader.py",
        "if lost > 1 or (isinstance",
        "if lost > 0 or (isinstance",
        "tests/trainables/test_data.py::test_a_killed_worker_is_forgiven_once",
        "data: a killed worker is not forgiven",
    ),
    Mutant(
        DATA + "loader.py",
        "            signal.signal(signal.SIGCHLD, before)",
        "            pass",
        "tests/trainables/test_data.py::test_a_killed_worker_is_forgiven_once",
        "data: a worker's death is raised in the middle of a step",
    ),
    Mutant(
        DATA + "cifar.py",
        "self.problems(data_dir, verify=True):\n            raise",
        "self.problems(data_dir):\n            raise",
        "tests/trainables/test_fetch.py::test_a_pickle_that_is_not_the_known_one_is_named_and_never_opened",
        "data: a pickle is not compared with its digest by us",
    ),
    Mutant(
        DATA + "cifar.py",
        "self._problem(path, verify=True)",
        "self._problem(path, verify=False)",
        "tests/trainables/test_fetch.py::test_a_pickle_that_is_not_the_known_one_is_named_and_never_opened",
        "data: a download replaces a damaged file",
    ),
    Mutant(
        "trainables/ray_trainable.py",
        "except (DataError, StoreError) as problem:",
        "except StoreError as problem:",
        "tests/trainables/test_data_trials.py::test_a_worker_reports_damaged_data_and_the_driver_stops",
        "data: damaged data are an error of the trial, tried again for ever",
    ),
    # T1 to T4: the Nystrom factor
    Mutant(
        NYSACT,
        "solve_triangular(triangle.mT, c_nu, upper=True",
        "solve_triangular(triangle, c_nu, upper=False",
        ORACLES + "test_low_rank_factor_is_the_nystrom_matrix",
        "E1: the transpose of L is missing",
    ),
    Mutant(
        NYSACT,
        "solve_triangular(triangle.mT, c_nu, upper=True",
        "solve_triangular(triangle.mT, c, upper=True",
        ORACLES + "test_the_shift_is_taken_off_again",
        "E2: the shift is in W, but not in the sketch",
    ),
    Mutant(
        NYSACT,
        "(sigma_squared - nu.unsqueeze(-1))",
        "sigma_squared",
        ORACLES + "test_the_shift_is_taken_off_again",
        "E3: the shift is not taken off, so damping counts twice",
    ),
    Mutant(
        NYSACT,
        "nu = _rounding(sketch)\n",
        "nu = torch.full_like(c[:, 0, 0], damping)\n",
        ORACLES + "test_nysact_equals_its_literal_reference",
        "E3: the damping is the shift as well",
    ),
    Mutant(
        NYSACT,
        'self.resample in ("fixed", "window")',
        'not state.statistic.sketch.redraw(slots) and self.resample in ("fixed", "window")',
        ORACLES + "test_the_same_batch_again_changes_nothing",
        "E4: a fixed Omega is drawn again at each update",
    ),
    Mutant(
        NYSACT,
        "(damping * (eigenvalues + damping)).rsqrt()",
        "(eigenvalues + damping).rsqrt()",
        ORACLES + "test_nysact_equals_its_literal_reference",
        "Z without 1 / rho",
    ),
    Mutant(
        NYSACT,
        "(damping * (eigenvalues + damping)).rsqrt()",
        "(damping * (eigenvalues + damping / 2)).rsqrt()",
        ORACLES + "test_the_preconditioner_is_between_the_inverse_and_identity",
        "T4: half the damping in the captured directions, so P leaves the Loewner sandwich",
    ),
    Mutant(
        SKETCHES,
        'f"{seed}/{name}/{number}"',
        'f"{seed}/{number}"',
        TEST_OPTIMIZER + "test_test_matrices_depend_on_seed_and_layer_only",
        "all layers have the same test matrix",
    ),
    Mutant(
        FACTORS,
        "self.z.mT, beta=1 / self.damping",
        "self.z.mT, beta=0",
        ORACLES + "test_nysact_equals_its_literal_reference",
        "the complement of the captured directions is missing",
    ),
    # T1 and T2: the moving average
    Mutant(
        FOOF,
        "covariance = Covariance.zeros(num_layers, shape.d_in, like)",
        "covariance = Covariance.zeros(num_layers, shape.d_in, like)\n"
        "    covariance.average.value += torch.eye(shape.d_in).to(like)",
        ORACLES + "test_foof_equals_its_literal_reference",
        "the covariance starts at I by default",
    ),
    Mutant(
        FOOF,
        'if self.first_inverse == "skip"',
        "if self.first_inverse",
        ORACLES + "test_foof_equals_its_literal_reference",
        "step 0 does not invert by default",
    ),
    Mutant(
        STATISTICS,
        "self.weight.lerp_(ok.to(self.weight), (1 - decay)",
        "self.weight.lerp_(ok.to(self.weight), (1 - decay**2)",
        ORACLES + "test_the_same_batch_again_changes_nothing",
        "bias correction with another exponent than the number of updates",
    ),
    Mutant(
        STATISTICS,
        "torch.where(self.weight > 0, 1 / self.weight, 0)",
        "torch.ones_like(self.weight)",
        ORACLES + "test_foof_equals_its_literal_reference",
        "no bias correction",
    ),
    Mutant(
        STATISTICS,
        "sums[slots] += total",
        "sums[slots] = total",
        TEST_OPTIMIZER + "test_accumulated_micro_batches_are_one_batch",
        "the last micro-batch replaces the others",
    ),
    # T5: a layer as a matrix
    Mutant(
        ROWS,
        "position * dilation - pad",
        "position - pad",
        CONVOLUTION,
        "dilation is ignored in the sketched columns",
    ),
    Mutant(
        ROWS,
        ".clamp(max=per_group - 1) + first)",
        ".clamp(max=per_group - 1) + 0 * first)",
        CONVOLUTION,
        "every group of a convolution reads the first group's channels",
    ),
    Mutant(
        ROWS,
        "divmod(offset, self.kernel[1])",
        "divmod(offset, self.kernel[0])[::-1]",
        CONVOLUTION,
        "columns in the order (c, j, i)",
    ),
    Mutant(
        ROWS,
        "y.sum((0, 2, 3))",
        "y.mean((2, 3)).sum(0)",
        CONVOLUTION,
        "the sketch's bias row is scaled by 1 / T",
    ),
    Mutant(
        ROWS,
        "return self.x.shape[0] * height * width",
        "return self.x.shape[0]",
        CONVOLUTION,
        "N counts images instead of patches",
    ),
    Mutant(
        ROWS,
        "sums.new_full((1, 1), self.count)",
        "sums.new_ones(1, 1)",
        TEST_LAYERS + "test_a_linear_layer_equals_its_explicit_rows",
        "the bias entry of a Gram matrix is 1 instead of N",
    ),
    Mutant(
        CORRELATIONS,
        "[:, :, :, 1:].transpose(1, 2).flip(3, 4)",
        "[:, :, :, 1:].flip(3, 4)",
        CONVOLUTION,
        "the correlation with a shift up is that of the same channels with the shift down",
    ),
    Mutant(
        CORRELATIONS,
        "for n in range(1, height - vertical)",
        "for n in range(1, min(2, height - vertical))",
        CONVOLUTION,
        "only the nearest line of patches outside the output is taken off",
    ),
    Mutant(
        CORRELATIONS,
        "for end in range(1, kernel - padding)",
        "for end in range(1, 1)",
        CONVOLUTION,
        "the corners are taken off twice",
    ),
    Mutant(
        CORRELATIONS,
        "F.pad(lines, (0, kernel - 1)).flatten(2)",
        "lines.flatten(2)",
        CONVOLUTION,
        "a shift carries the end of one image into the next",
    ),
    Mutant(
        ROWS,
        "self.stride == self.dilation == (1, 1)",
        "self.stride == (1, 1)",
        CONVOLUTION,
        "correlations of a dilated convolution as if it were dense",
    ),
    Mutant(
        STATISTICS,
        "(output_gradients.mT @ output_gradients).sum(1)",
        "(output_gradients.mT @ output_gradients).mean(1)",
        "tests/precond/test_kfac_eva.py::test_kfac_equals_its_literal_reference",
        "S is a mean over examples where the sum is meant",
    ),
    # The cost benchmark
    Mutant(
        "trainables/cost/race.py",
        "parts if forwards else reversed(parts)",
        "parts",
        "tests/trainables/test_cost.py::test_a_race_weighs_the_kinds_and_turns_around",
        "blocks are ABAB, which a drift of the machine favours one side in",
    ),
    Mutant(
        "trainables/cost/contestants.py",
        "            optimizer._schedule_recording()  # as the step before would have\n",
        "",
        "tests/trainables/test_cost.py::test_a_step_is_of_the_kind_that_it_is_put_at",
        "a statistics step that is timed records nothing",
    ),
    Mutant(
        "trainables/cost/files.py",
        "return value != 0 if isinstance(value, float) else value",
        "return value",
        "tests/trainables/test_cost.py::test_a_file_belongs_to_what_decides_the_cost",
        "the cost of a configuration is not found for another damping",
    ),
    Mutant(
        "trainables/cost/intervals.py",
        "ordered[n - k]",
        "ordered[n - k - 1]",
        "tests/trainables/test_cost.py::test_the_interval_covers_the_median_with_95_percent_and_no_narrower_one_does",
        "the interval is one rank too narrow above",
    ),
    # T12: numerical safety
    Mutant(
        STATISTICS,
        "ok = finite & seen",
        "ok = seen",
        SAFETY + "test_activations_that_are_not_finite_change_no_statistics",
        "a batch with inf or nan enters the statistics",
    ),
    Mutant(
        FACTORS,
        "linalg.select(ok, inverse, self.inverse)",
        "inverse",
        SAFETY + "test_a_failed_refresh_keeps_the_last_factor",
        "a failed dense inverse replaces the last one",
    ),
    Mutant(
        FACTORS,
        "linalg.select(ok, z.to(self.z.dtype), self.z)",
        "z",
        SAFETY + "test_a_failed_refresh_keeps_the_last_factor",
        "a failed low-rank factor replaces the last one",
    ),
    Mutant(
        LINALG,
        "<= 1.1 / damping",
        "<= torch.inf",
        SAFETY + "test_no_inverse_is_far_above_one_over_the_damping",
        "a Cholesky factorisation that passed is believed",
    ),
    Mutant(
        BANK,
        "torch.where(self._ok.view(-1, 1, 1), directions, self.buffer, out=self.buffer)",
        "self.buffer.copy_(directions)",
        SAFETY + "test_a_direction_that_is_not_finite_is_the_gradient",
        "a direction that is not finite reaches the weights",
    ),
    # T12: what a restart needs
    Mutant(
        OPTIMIZER,
        "for key, value in self.state.get(parameter, {}).items()",
        "for key, value in ()",
        CONTRACT + "test_a_saved_state_goes_on_bit_for_bit[foof]",
        "the momentum is not saved",
    ),
    Mutant(
        STACKS,
        'field.name.startswith("_")',
        'field.name.startswith(("_", "sketch"))',
        VARIANTS + "test_a_redrawn_sketch_is_saved",
        "the sketch is not saved",
    ),
    Mutant(
        STACKS,
        'field.name.startswith("_")',
        'field.name.startswith(("_", "factor"))',
        CONTRACT + "test_a_saved_state_goes_on_bit_for_bit[nysact-g]",
        "the factor is not saved",
    ),
    Mutant(
        OPTIMIZER,
        'self.steps = state_dict["steps"]',
        "self.steps = 0",
        CONTRACT + "test_a_saved_state_goes_on_bit_for_bit[nysact-s]",
        "the step count is not restored, so the intervals shift",
    ),
    # T12: the rule after preconditioning
    Mutant(
        OPTIMIZER,
        "pairs = [(view, p.grad) for p, view in self._views.items()]",
        'decay = self.param_groups[0]["weight_decay"]\n'
        "        pairs = [(view, p.grad if p.grad is None else p.grad + decay * p) for p, view in self._views.items()]",
        TEST_OPTIMIZER + "test_weight_decay_is_not_preconditioned",
        "the weight decay is preconditioned",
    ),
    Mutant(
        RULES,
        'torch._foreach_add(directions, buffers, alpha=momentum) if group["nesterov"]',
        'torch._foreach_add(directions, buffers) if group["nesterov"]',
        VARIANTS + "test_momentum_and_decay_follow_their_formulas",
        "Nesterov's step adds all of the momentum",
    ),
    Mutant(
        RULES,
        "torch._foreach_mul_(params, 1 - lr * decay)",
        "torch._foreach_mul_(params, 1 - decay)",
        VARIANTS + "test_momentum_and_decay_follow_their_formulas",
        "the decoupled decay is not scaled by the learning rate",
    ),
    # T2 and section 0: which forwards count
    Mutant(
        CAPTURE,
        "if bank is None or self._is_repetition(bank):",
        "if bank is None:",
        TEST_OPTIMIZER + "test_activation_checkpointing_does_not_count_twice",
        "the hook fires again where checkpointing recomputes",
    ),
    Mutant(
        CAPTURE,
        "module is not self._layer.module or not output.requires_grad:",
        "module is not self._layer.module:",
        CONTRACT + "test_forwards_that_do_not_train_leave_no_trace",
        "evaluation enters the statistics",
    ),
    Mutant(
        OPTIMIZER,
        "bank.recording = due or not bank.has_factor",
        "bank.recording = True",
        TEST_OPTIMIZER + "test_statistics_are_taken_at_their_interval",
        "the statistics are updated at every step",
    ),
    # Issue 5: ways of training
    Mutant(
        COMPILED,
        'for _name in ("see_input", "see_gradient"):',
        "for _name in ():",
        MODES + "test_a_compiled_model_trains_the_same_in_two_graphs[kfac]",
        "a compiled graph drops what has no output",
    ),
    Mutant(
        CAPTURE,
        "if torch.compiler.is_compiling():",
        "if False:",
        MODES + "test_most_methods_make_both_graphs",
        "the compiler traces through the recording",
    ),
    Mutant(
        BANK,
        "return sorted(self._repeated - self._recorded)",
        "return []",
        MODES + "test_reentrant_checkpointing_is_refused_by_name[foof]",
        "reentrant checkpointing passes unnoticed",
    ),
    Mutant(
        BANK,
        "return g if isinstance(scale, float) and scale == 1 else g / scale",
        "return g",
        MODES + "test_accumulated_micro_batches_equal_one_batch[kfac]",
        "the scale of the loss stays in the output gradients",
    ),
    Mutant(
        BANK,
        "forget(self.state, skipped)\n            if",
        "pass\n            if",
        MODES + "test_a_step_that_the_scaler_skips_leaves_no_trace[2-foof]",
        "a skipped step's statistics are kept",
    ),
    Mutant(
        SCALING,
        "buffer.masked_fill_(self.skipped, torch.nan)",
        "pass",
        MODES + "test_a_step_that_the_scaler_skips_leaves_no_trace[2-steve]",
        "a skipped step moves the moments",
    ),
    Mutant(
        SCALING,
        "tensor.copy_(torch.where(skipped.to(tensor.device, non_blocking=True), kept, tensor))",
        "pass",
        MODES + "test_a_step_that_the_scaler_skips_leaves_no_trace[2-nysact-s]",
        "a skipped step moves the weights",
    ),
    Mutant(
        SCALING,
        "gradients if self.inverse is None else list(torch._foreach_mul(gradients, self.inverse))",
        "gradients",
        MODES + "test_a_scaler_changes_nothing[False-nysact-s]",
        "what is no layer follows its scaled gradient",
    ),
    Mutant(
        BANK,
        " or (first and skipped is not None and skipped):",
        ":",
        MODES + "test_a_step_that_the_scaler_skips_leaves_no_trace[0-foof]",
        "the first factor is made of nothing",
    ),
    # The named options
    Mutant(
        NYSACT,
        "solve_triangular(triangle, c_rho, upper=False",
        "solve_triangular(triangle.mT, c_rho, upper=True",
        VARIANTS + "test_the_official_factor_is_the_transcription",
        "shift=official: the missing transpose is repaired",
    ),
    Mutant(
        NYSACT,
        "s = eigenvalues.amin(-1).abs() + damping",
        "s = eigenvalues.amin(-1).abs()",
        VARIANTS + "test_the_official_factor_is_the_transcription",
        "shift=official: s without rho",
    ),
    Mutant(
        NYSACT,
        "linalg.eigh(omega.core(c_rho))",
        "linalg.eigh(linalg.symmetrize(omega.core(c_rho)))",
        VARIANTS + "test_official_nysact_trains_as_the_released_code",
        "shift=official: W is symmetrised",
    ),
    Mutant(
        NYSACT,
        "if slots.start not in state._redrawn:",
        "if True:",
        VARIANTS + "test_when_omega_is_drawn",
        "resample=official: Omega is drawn again at each forward",
    ),
    Mutant(
        NYSACT,
        ".to(average.value) * average.weight.to(average.value).view(-1, 1, 1)",
        ".to(average.value)",
        VARIANTS + "test_window_carries_the_nystrom_matrix_over",
        "resample=window: the carried sketch is corrected twice",
    ),
    Mutant(
        NYSACT,
        "c = torch.linalg.solve_triangular(r, c, upper=True, left=False)",
        "c = c @ r.mT",
        VARIANTS + "test_joint_averages_omega_with_the_sketch",
        "resample=joint: C is not taken to the orthonormal basis",
    ),
    Mutant(
        FOOF,
        'self.init == "identity"',
        "False",
        VARIANTS + "test_official_foof_trains_as_the_released_code",
        "init=identity: the covariance starts at zero",
    ),
    # T6 to T9 and their like: the Kronecker-factored methods
    Mutant(
        FACTORS,
        "return self.output_inverse @ gradients @ self.input_inverse",
        "return self.input_inverse[:, :1, :1] * gradients @ self.input_inverse",
        f"{KFAC_EVA}::test_factored_damping_is_the_product_of_the_damped_inverses",
        "T6: KFAC forgets the output factor",
    ),
    Mutant(
        FACTORS,
        "return self.output_basis @ (rotated * self.scale) @ self.input_basis.mT",
        "return self.output_basis.mT @ (rotated * self.scale) @ self.input_basis",
        f"{KFAC_EVA}::test_eigen_damping_is_the_dense_inverse",
        "T6: bases the wrong way round",
    ),
    Mutant(
        KFAC,
        "1 / (products + damping)",
        "1 / (products + damping**0.5)",
        f"{KFAC_EVA}::test_eigen_damping_is_the_dense_inverse",
        "T6: root of the damping in the eigenbasis",
    ),
    Mutant(
        KFAC,
        "linalg.damped_inverse(s, damping**0.5 / pi)",
        "linalg.damped_inverse(s, damping**0.5 * pi)",
        f"{KFAC_EVA}::test_pi_makes_factored_damping_independent_of_where_the_scale_is",
        "pi on the wrong side",
    ),
    Mutant(
        KFAC,
        "traces[0] / traces[1]).sqrt()",
        "traces[0] / traces[1])",
        f"{KFAC_EVA}::test_pi_makes_factored_damping_independent_of_where_the_scale_is",
        "pi without its root",
    ),
    Mutant(
        KFAC,
        "(1 if expand else 2)",
        "1",
        f"{KFAC_EVA}::test_the_official_scales",
        "official scale of reduce as of expand",
    ),
    Mutant(
        KFAC,
        "gradients.sum(2, keepdim=True)",
        "gradients.mean(2, keepdim=True)",
        f"{KFAC_EVA}::test_kfac_equals_its_literal_reference",
        "T7: mean instead of sum over positions",
    ),
    Mutant(
        EVA,
        "product / (product + damping)",
        "product / (product + damping**2)",
        f"{KFAC_EVA}::test_eva_is_the_dense_rank_one_inverse",
        "Eva damps with another constant",
    ),
    Mutant(
        OPTIMIZER,
        "(bound / s).sqrt()",
        "bound / s",
        f"{KFAC_EVA}::test_the_kl_clip_bounds_lr2_D_G",
        "KL-clip without its root",
    ),
    Mutant(
        PAIRS,
        "torch.stack(terms).sum(0).square().sum(1)",
        "torch.stack(terms).square().sum(0).sum(1)",
        f"{EKFAC_STEVE}::test_second_moments_are_those_of_autograd",
        "T7: the uses of a shared layer squared before they are added",
    ),
    Mutant(
        PAIRS,
        "return (g @ u.unsqueeze(1)).mT @ rows.project(v)",
        "return (g @ u.unsqueeze(1)).square().mT.sqrt() @ rows.project(v)",
        f"{EKFAC_STEVE}::test_second_moments_are_those_of_autograd",
        "T7: signs lost before the sum over positions",
    ),
    Mutant(
        EKFAC,
        "linalg.per_layer(sizes, rotated) * rotated.square()",
        "rotated.square()",
        f"{EKFAC_STEVE}::test_ekfac_is_the_reference",
        "running moment without the batch size",
    ),
    Mutant(
        EKFAC,
        "s_values.unsqueeze(-1) * a_values.unsqueeze(-2)",
        "s_values.unsqueeze(-1) + a_values.unsqueeze(-2)",
        f"{EKFAC_STEVE}::test_with_the_products_of_eigenvalues_it_is_kfac",
        "T6: S starts as a sum",
    ),
    Mutant(
        STEVE,
        "(state.v.sqrt() / root).add_(self.eps)",
        "(state.v + self.eps).sqrt() / root",
        f"{EKFAC_STEVE}::test_with_the_identity_as_basis_it_is_adam_bit_for_bit",
        "T8: eps under the root",
    ),
    Mutant(
        STEVE,
        'correction if self.bias_correction == "adam" else correction.sqrt()',
        "correction.sqrt()",
        f"{EKFAC_STEVE}::test_with_the_identity_as_basis_it_is_adam_bit_for_bit",
        "T8: root of the bias correction",
    ),
    Mutant(
        STEVE,
        "beta ** count.double()",
        "beta ** (count.double() + 1)",
        f"{EKFAC_STEVE}::test_with_the_identity_as_basis_it_is_adam_bit_for_bit",
        "T8: c off by one",
    ),
    Mutant(
        STEVE,
        "            state.m_count[ok] = 0\n",
        "",
        f"{EKFAC_STEVE}::test_a_reset_restarts_adam_bit_for_bit",
        "T8: c goes on after a reset",
    ),
    Mutant(
        STEVE,
        "r @ state.m @ q.mT",
        "r.mT @ state.m @ q",
        f"{EKFAC_STEVE}::test_what_a_new_basis_does_to_the_moments",
        "moments rotated backwards",
    ),
    Mutant(
        FACTORS,
        "return self.output.mT @ gradients @ self.input",
        "return self.output.mT @ gradients",
        f"{EKFAC_STEVE}::test_a_rotation_of_the_inputs_rotates_the_weights",
        "T9: the inputs are not rotated",
    ),
    # T11: data parallel
    Mutant(
        SKETCHES,
        "seed_of(self._seed, name, number))",
        "seed_of(self._seed + (torch.distributed.is_initialized() and torch.distributed.get_rank()), name, number))",
        f"{TOGETHER}[nysact-g]",
        "T11: each rank draws its own Omega",
    ),
    Mutant(
        NYSACT,
        "            _agree(state)\n",
        "            state._redrawn.clear()\n",
        f"{TOGETHER}[nysact-s resample=joint sizes parts apart]",
        "T11: a layer that one rank left out keeps its Omega there",
    ),
    Mutant(
        PAIRS,
        "        distributed.add_up([sizes])\n",
        "",
        f"{TOGETHER}[ekfac second_moment=running before]",
        "T11: the running moment has the local batch size",
    ),
    Mutant(
        KFAC,
        'power = 3 if self.g_scale == "official"',
        'power = 1 if self.g_scale == "official"',
        f"{KFAC_EVA}::test_the_official_scales",
        "the official scale without the batch size",
    ),
    Mutant(
        STATISTICS,
        "distributed.add_up([sums, counts])",
        "distributed.add_up([sums.div_(linalg.per_layer(counts.clamp(min=1), sums)), counts.clamp_(max=1)])",
        f"{TOGETHER}[kfac sizes]",
        "T11: the mean of the ranks' means",
    ),
    Mutant(
        STATISTICS,
        "distributed.add_up([sums, counts])",
        "distributed.add_up([counts])",
        f"{TOGETHER}[foof before]",
        "T11: each rank averages its own statistics",
    ),
    Mutant(
        DISTRIBUTED,
        "return flags if all(flags) else (counts > 0).tolist()",
        "return flags",
        f"{TOGETHER}[steve second_moment=per_example before sizes parts apart]",
        "T11: a layer that one rank left out follows Adam there",
    ),
    Mutant(
        DISTRIBUTED,
        "tensor[share.stop :].zero_()",
        "tensor[share.stop :]",
        f"{TOGETHER}[kfac]",
        "T11: slots of others are not zeroed before the sum",
    ),
    Mutant(
        BANK,
        "bank.share = share\n",
        "pass\n",
        "tests/precond/test_distributed.py::test_a_refresh_is_shared_and_changes_nothing",
        "T11: each rank refreshes everything",
    ),
    Mutant(
        LAYERS,
        "return module.module\n",
        "return None\n",
        "tests/precond/test_distributed.py::test_one_process_goes_on_where_two_ranks_were[foof first_inverse=skip]",
        "T11: names with the wrapper in them",
    ),
    Mutant(
        BANK,
        "for tensor in (*shared, made, failures)]",
        "for tensor in shared]",
        "tests/precond/test_distributed.py::test_diagnostics_are_those_of_the_whole_batch",
        "diagnostics: a rank does not know which factors the others made",
    ),
    Mutant(
        BANK,
        "~(made if skipped is None else made | skipped)",
        "~made",
        DIAGNOSTICS + "test_a_step_that_a_scaler_skips_leaves_no_trace",
        "diagnostics: a skipped step's refresh has failed",
    ),
    Mutant(
        "precond/diagnostics/monitor.py",
        "made = made & (self._products.weight > 0)",
        "made = made",
        DIAGNOSTICS + "test_a_refresh_before_anything_was_seen_is_not_measured",
        "diagnostics: a factor is measured against products that were not seen yet",
    ),
    Mutant(
        "precond/diagnostics/monitor.py",
        'generators = [torch.Generator().manual_seed(seed_of(0, f"probes {name}", 0)) for name in names]',
        "generators = [torch.default_generator for name in names]",
        DIAGNOSTICS + "test_training_is_the_same_bit_for_bit",
        "diagnostics: the probes are drawn from torch's own random numbers",
    ),
    Mutant(
        "precond/diagnostics/monitor.py",
        "near = _mean_square(products - approximate) < known / 4",
        "near = known > 0",
        DIAGNOSTICS + "test_the_residual_is_that_of_the_factor_in_use",
        "diagnostics: the norm of A is taken from a factor far from it",
    ),
    Mutant(
        "precond/diagnostics/monitor.py",
        "self._staleness = torch.where(made & self._known, self._change(new), self._staleness)",
        "self._staleness = torch.where(made, self._change(new), self._staleness)",
        DIAGNOSTICS + "test_a_monitor_that_comes_late_waits_for_the_next_refresh",
        "diagnostics: the first factor is stale against nothing",
    ),
    Mutant(
        "precond/bank.py",
        "self.tally.rescued += self._mask & made & (failures > 0)",
        "self.tally.rescued += self._mask & made & (failures == 0)",
        DIAGNOSTICS + "test_counts_are_of_the_window_and_the_layer",
        "diagnostics: rescues are counted where there were none",
    ),
    Mutant(
        "precond/bank.py",
        "self.tally.fallbacks += ~self._ok & ~self.buffer[:, 0, 0].isnan()",
        "self.tally.fallbacks += ~self._ok",
        DIAGNOSTICS + "test_a_layer_without_gradient_has_not_fallen_back",
        "diagnostics: a layer without gradient counts as one that fell back",
    ),
    Mutant(
        "trainables/store.py",
        'if line["epoch"] not in written]',
        "if line]",
        "tests/trainables/test_telemetry.py::test_a_torn_line_is_cut_and_no_line_comes_twice",
        "diagnostics: recomputed epochs are written twice",
    ),
    # Faults
    Mutant(
        "trainables/checkpoints.py",
        'if checksum(path / "state.pt") != manifest["sha256"]:',
        "if False:",
        "tests/studies/test_faults.py::test_nothing_is_violated",
        "faults: a checkpoint's contents are not compared with its manifest",
    ),
    Mutant(
        "trainables/store.py",
        'if lines and lines[0]["epoch"] > len(self.epochs()):',
        "if False:",
        "tests/trainables/test_store.py::test_a_checkpoint_whose_earlier_lines_are_lost_is_not_used",
        "faults: a trial goes on behind a gap in its epochs",
    ),
    Mutant(
        "trainables/checkpoints.py",
        "raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None",
        "raise",
        "tests/studies/test_faults.py::test_a_full_disk_while_a_checkpoint_is_written_is_no_outcome",
        "faults: a full disk is taken for a trial that failed",
    ),
    Mutant(
        "trainables/files.py",
        "if path.is_dir() and not path.is_symlink():",
        "if path.is_dir():",
        "tests/trainables/test_malicious.py::test_a_link_out_of_the_folder_is_removed_not_followed",
        "faults: a link in a trial folder is treated as a folder",
    ),
    Mutant(
        "trainables/ray_trainable.py",
        "if not self._pauses:",
        "if False:",
        "tests/studies/test_faults.py::test_a_worker_takes_a_trial_up_again_and_gives_up_after_some_pauses",
        "faults: a worker waits for a full disk for ever",
    ),
    Mutant(
        "trainables/ray_trainable.py",
        "except (DataError, StoreError) as problem:",
        "except DataError as problem:",
        "tests/studies/test_faults.py::test_a_worker_whose_folder_belongs_to_another_gives_up_at_once",
        "faults: a fenced-off worker is started again for ever",
    ),
    Mutant(
        "studies/harness/command/cli.py",
        "    atexit.register(_deaf)\n",
        "",
        "tests/studies/test_cli.py::test_a_signal_after_the_last_line_changes_nothing",
        "faults: a signal while Ray ends takes the exit code away",
    ),
    Mutant(
        "studies/harness/cluster/stopping.py",
        "signal.raise_signal(received[0])",
        "pass",
        "tests/studies/test_faults.py::test_signals_wait_until_ray_has_started",
        "faults: a signal that comes while Ray starts is lost",
    ),
    Mutant(
        "studies/harness/cluster/stopping.py",
        "signal.alarm(0)  #",
        "pass  #",
        "tests/studies/test_faults.py::test_signals_wait_until_ray_has_started",
        "faults: a SIGTERM while Ray starts aborts the driver 3 s later",
    ),
    Mutant(
        "studies/harness/cluster/stopping.py",
        "if self._alone > LOST_SECONDS:",
        "if False:",
        "tests/studies/test_faults.py::test_a_cluster_without_a_living_node_stops_the_driver",
        "faults: a driver waits for a dead cluster for ever",
    ),
    Mutant(
        "studies/harness/cluster/tuning.py",
        "if trial not in actors or not starting(actors[trial])",
        "if True",
        "tests/studies/test_faults.py::test_a_free_worker_takes_no_trial_whose_own_worker_is_starting",
        "clusters: a node that joins late never trains anything",
    ),
    Mutant(
        "studies/harness/cluster/stopping.py",
        "asking.acquire(timeout=GRACE_SECONDS)",
        "pass",
        "tests/studies/test_faults.py::test_ray_is_not_asked_for_nodes_while_it_shuts_down",
        "faults: a driver asks for nodes while it shuts down",
    ),
    Mutant(
        "studies/harness/cluster/stopping.py",
        "if self._alone > LOST_SECONDS + GRACE_SECONDS:",
        "if False:",
        "tests/studies/test_faults.py::test_a_driver_that_waits_for_a_dead_cluster_ends_itself",
        "faults: a driver hangs in a call to a dead cluster",
    ),
    Mutant(
        "studies/harness/command/lock.py",
        ".ljust(LENGTH)",
        "",
        "tests/studies/test_faults.py::test_the_lock_file_has_one_length",
        "faults: what is left of a longer holder makes the lock unreadable",
    ),
    Mutant(
        "studies/harness/evidence/ledger.py",
        'if not (folder / "config.json").exists():',
        "if not folder.exists():",
        "tests/studies/test_ledger.py::test_a_folder_whose_driver_was_killed_before_it_wrote_the_configuration_is_not_run",
        "faults: a driver that was killed between a folder and its configuration cannot be followed by another",
    ),
    Mutant(
        "studies/harness/command/run.py",
        "if missing and (missing := _to_train(trials, options)):",
        "if missing:",
        "tests/studies/test_run.py::test_what_another_driver_has_trained_meanwhile_is_not_trained_again",
        "faults: two drivers, one after the other, train the same",
    ),
    Mutant(
        "studies/harness/cluster/local.py",
        "ray_constants.ENABLE_RAY_CLUSTER = False",
        "pass",
        "tests/studies/test_sockets.py::test_nothing_listens_beyond_this_machine",
        "faults: Ray's ports can be reached from other machines",
    ),
    Mutant(
        "studies/harness/cluster/local.py",
        'os.environ.pop("RAY_AUTH_MODE", None)',
        "pass",
        "tests/studies/test_sockets.py::test_every_port_of_ray_refuses_a_request_without_the_token",
        "faults: a setting made for another cluster takes the token away",
    ),
    Mutant(
        "studies/harness/command/run.py",
        're.sub("//.*@", "//***@", line, flags=re.DOTALL)',
        "line",
        "tests/studies/test_secrets.py::test_whatever_refuses_an_address_does_not_repeat_its_password",
        "faults: a password in an address is shown",
    ),
    Mutant(
        "studies/harness/cluster/tuning.py",
        "ENV_VARS_TO_PROPAGATE.difference_update(",
        "sorted(",
        "tests/studies/test_secrets.py::test_no_secret_of_the_environment_is_written_or_shown",
        "faults: keys of the environment are in Ray's log",
    ),
    # Statistics and reports
    Mutant(
        CONTRASTS,
        "* (tests - np.arange(p.shape[-1]))",
        "* 1",
        "tests/studies/test_contrasts.py::test_null_tables_are_bold_at_most_as_often_as_promised",
        "statistics: p-values are not corrected",
    ),
    Mutant(
        CONTRASTS,
        "np.logical_not(wins.any(axis=-2))",
        "True",
        "tests/studies/test_contrasts.py::test_a_middle_arm_that_beats_one_and_loses_to_another_is_not_bold",
        "statistics: an arm that another beats is bold",
    ),
    Mutant(
        CONTRASTS,
        "math.sqrt(2 * (1 - correlation) / n)",
        "math.sqrt(2 / n)",
        "tests/studies/test_contrasts.py::test_pairing_takes_the_seed_out",
        "statistics: the paired detectable difference does not know the correlation",
    ),
    Mutant(
        CONTRASTS,
        "} - lost",
        "}",
        "tests/studies/test_contrasts.py::test_an_arm_with_a_diverged_trial_is_never_bold",
        "statistics: an arm is bold on the seeds that did not diverge",
    ),
    Mutant(
        "studies/harness/evidence/targets.py",
        "meets[:-1] & meets[1:]",
        "meets[:-1] | meets[1:]",
        "tests/studies/test_targets.py::test_a_hit_takes_two_in_a_row",
        "statistics: one lucky evaluation is a hit",
    ),
    Mutant(
        "studies/harness/evidence/targets.py",
        "~np.asarray(observed, bool)",
        "np.zeros(len(times), bool)",
        "tests/studies/test_targets.py::test_a_censored_run_counts_until_its_end",
        "statistics: a censored run counts as a hit",
    ),
    Mutant(
        "studies/harness/evidence/targets.py",
        "ENDED = (COMPLETED, DIVERGED, OOM, FAILED)",
        "ENDED = (COMPLETED,)",
        "tests/studies/test_reach.py::test_runs_that_never_hit_are_counted_and_enter_no_mean",
        "targets: a diverged run is left out",
    ),
    Mutant(
        "studies/harness/evidence/costs.py",
        "if own[name] != recipe[name]]",
        "if False]",
        "tests/studies/test_reach.py::test_the_commands_measure_exactly_what_is_missing",
        "targets: the command measures another configuration than the one that is missing",
    ),
    Mutant(
        "studies/harness/kinds/target/report.py",
        "missed=without.count(COMPLETED)",
        "missed=0",
        "tests/studies/test_reach.py::test_verdicts_on_epochs_time_and_what_is_saved",
        "targets: runs that miss the target are forgotten",
    ),
    Mutant(
        "studies/harness/kinds/target/report.py",
        '{"hardware": machine}',
        "{}",
        "tests/studies/test_reach.py::test_verdicts_on_epochs_time_and_what_is_saved",
        "targets: seconds on one hardware are held against those on another",
    ),
    Mutant(
        "studies/harness/kinds/target/report.py",
        "None if time.hits == time.n else",
        "None if True else",
        "tests/studies/test_reach.py::test_verdicts_on_epochs_time_and_what_is_saved",
        "targets: the mean over the runs that hit stands for all",
    ),
    Mutant(
        "trainables/cost/benchmark.py",
        "recipe.hyperparameters(name, self.faithful)",
        "recipe.hyperparameters(name)",
        "tests/studies/test_reach.py::test_the_commands_measure_exactly_what_is_missing",
        "cost: the faithful arm is timed as the consistent one",
    ),
    Mutant(
        VERDICTS,
        "return claim.value - claim.margin <= summary.ci_lo and",
        "return claim.value - claim.margin <= summary.mean and",
        "tests/studies/test_verdicts.py::test_a_cost_is_judged_by_its_own_interval",
        "verdicts: a cost is reproduced whatever its interval",
    ),
    Mutant(
        "studies/harness/evidence/budgets.py",
        "np.maximum(rank - k, 0)",
        "np.maximum(rank - 1, 0)",
        "tests/studies/test_budgets.py::test_best_of_k_is_brute_force",
        "statistics: the best of k is drawn with the wrong weights",
    ),
    Mutant(
        VERDICTS,
        "summary.ci_lo > claim.value + error",
        "summary.ci_lo > claim.value",
        "tests/studies/test_verdicts.py::test_a_number_below_the_mean_has_its_standard_error_too",
        "verdicts: the published number's own error is forgotten",
    ),
    Mutant(
        VERDICTS,
        "if name in wanted and not _same(name, v, wanted[name])}",
        "if False}",
        "tests/studies/test_verdicts.py::test_another_protocol_is_named_and_not_judged",
        "verdicts: another protocol is judged",
    ),
    Mutant(
        "studies/harness/published/strict_yaml.py",
        "if key.value in seen:",
        "if False:",
        "tests/studies/test_claims.py::test_what_is_wrong_is_one_line_with_the_nearest",
        "papers: the second of two equal keys wins",
    ),
    Mutant(
        "studies/harness/tracking/trials.py",
        'tags.get("trial_key") or tags.get("group_key", "")',
        'tags.get("trial_key", "")',
        "tests/studies/test_tracking.py::test_a_group_is_updated_in_place_and_has_its_curve_when_all_seeds_are_in",
        "tracking: a group's run is not found again",
    ),
    Mutant(
        "studies/harness/tracking/groups.py",
        'self.rows["status"] == COMPLETED',
        'self.rows["status"] != "x"',
        "tests/studies/test_tracking.py::test_a_group_run_holds_the_mean_over_its_completed_seeds",
        "tracking: a diverged trial enters its group's mean",
    ),
    # The grids of the papers
    Mutant(
        "studies/harness/kinds/study/study.py",
        "(fields if name in RECIPE_SETTINGS else own)[name] = level",
        "own[name] = level",
        "tests/studies/test_grids.py::test_an_arm_may_set_fields_of_the_recipe",
        "grids: a field of the recipe is taken for a hyperparameter",
    ),
    Mutant(
        "studies/harness/kinds/study/study.py",
        "**self.published.get(workload, {}), ",
        "",
        "tests/studies/test_grids.py::test_appendix_c_has_the_papers_seeds_epochs_and_networks",
        "grids: the paper's own workloads are not trained as the paper did",
    ),
    Mutant(
        "studies/harness/kinds/study/study.py",
        "if centre is None or centre in levels:",
        "if True:",
        "tests/studies/test_grids.py::test_the_recipes_value_is_one_trial_in_every_ablation",
        "grids: an ablation lacks the trial that all share",
    ),
    Mutant(
        "studies/harness/kinds/study/study.py",
        "(twin.faithful == arm.faithful or replace(twin, faithful=arm.faithful) != arm)",
        "False",
        "tests/studies/test_grids.py::test_a_wrong_arm_is_named_before_anything_runs",
        "grids: one of two equal arms is dropped in silence",
    ),
    Mutant(
        "studies/harness/evidence/levels.py",
        "ends = {grid[0], grid[-1]}",
        "ends = {levels[0], levels[-1]}",
        "tests/studies/test_grid_reports.py::test_a_level_that_diverges_continues_the_grid",
        "grids: the level before those that diverge is the edge",
    ),
    Mutant(
        "studies/harness/report/differences.py",
        "return arm.optimizer, arm.faithful, arm.factors",
        "return arm.optimizer, arm.factors",
        "tests/studies/test_grid_reports.py::test_levels_are_held_against_the_recipes_value",
        "grids: faithful levels are held against the consistent arm",
    ),
    Mutant(
        "studies/harness/report/differences.py",
        "-difference, -hi, -lo",
        "difference, lo, hi",
        "tests/studies/test_grid_reports.py::test_levels_are_held_against_the_recipes_value",
        "grids: differences have the wrong sign",
    ),
    Mutant(
        "studies/harness/report/figures/curves.py",
        'frame.loc[frame["status"] == COMPLETED]',
        "frame",
        "tests/studies/test_grid_reports.py::test_curves_are_means_over_completed_seeds_in_a_row_for_each_kind",
        "grids: curves of diverged trials are drawn",
    ),
    # Workloads, recipes and the loop
    Mutant(
        "trainables/mixing.py",
        "            torch.set_rng_state(before)",
        "            pass",
        LOOP + "test_mixing_is_decided_by_its_seed_alone_and_leaves_the_models_stream_alone",
        "trial: mixing takes from the model's random stream",
    ),
    Mutant(
        TRAIN,
        "seed=mixing + step",
        "seed=mixing",
        LOOP + "test_every_step_of_every_epoch_is_mixed_otherwise",
        "trial: every batch of an epoch is mixed alike",
    ),
    Mutant(
        TRAIN,
        'label_smoothing=self._settings["label_smoothing"]',
        "label_smoothing=0.0",
        LOOP + "test_smoothed_labels_are_spread_over_all_classes",
        "trial: labels are never smoothed",
    ),
    Mutant(
        TRAIN,
        'part = "test" if self.config.train_fraction == 1 else "val"',
        'part = "test"',
        LOOP + "test_a_trial_on_a_part_of_the_training_set_is_scored_on_the_rest",
        "trial: a search scores on the test set by name",
    ),
    Mutant(
        TRAIN,
        'phases.mark("forward_backward")',
        'phases.mark("data")',
        LOOP + "test_the_phases_tile_the_training_time",
        "trial: the forward's seconds are the data's",
    ),
    Mutant(
        TRAIN,
        "if isinstance(self.optimizer, TakesLoss):",
        "if False:",
        LOOP + "test_a_step_of_a_transformer",
        "trial: attention has no second derivative",
    ),
    Mutant(
        TRAIN,
        "torch.compile(self.model) if config.compile else self.model",
        "self.model",
        LOOP + "test_a_compiled_trial_goes_through_the_compiler_and_keeps_its_names",
        "trial: compile is in the key and does nothing",
    ),
    Mutant(
        DESCENT,
        "after = steps - warmup",
        "after = steps",
        LOOP + "test_the_warm_up_is_linear_and_the_schedule_follows",
        "trial: the cosine does not come down to 0 after a warm-up",
    ),
    Mutant(
        DESCENT,
        "if isinstance(module, NORMS) for p",
        "if not isinstance(module, NORMS) for p",
        LOOP + "test_weight_decay_spares_what_it_says",
        "trial: weight decay spares all but the norms",
    ),
    Mutant(
        DESCENT,
        "params=parameter_groups(model, exempt), ",
        "",
        LOOP + "test_the_trials_optimizer_has_the_groups_of_its_settings",
        "trial: the setting of weight decay reaches no optimizer",
    ),
    Mutant(
        "trainables/models/vit.py",
        'block.dropout = StochasticDepth(drop_path * index / (DEPTH - 1), "row")',
        'block.dropout = StochasticDepth(drop_path * index / (DEPTH - 1), "batch")',
        LOOP + "test_stochastic_depth_rises_to_its_rate_and_skips_whole_branches",
        "trial: stochastic depth skips for the whole batch at once",
    ),
    Mutant(
        "trainables/config.py",
        '"settings": significant(self.settings)}',
        '"settings": dict(self.settings)}',
        WORKLOADS + "test_the_keys_of_schema_1_are_the_keys_of_now",
        "trial: neutral settings are in the key",
    ),
    Mutant(
        "trainables/settings.py",
        "if value != NEUTRAL.get(name)}",
        'if value != NEUTRAL.get(name) and name != "flip"}',
        WORKLOADS + "test_whatever_decides_numbers_is_in_the_key",
        "trial: flips are not in the key",
    ),
    Mutant(
        "trainables/workloads.py",
        "chosen.recipe.hyperparameters(optimizer, faithful)",
        "chosen.recipe.hyperparameters(optimizer, False)",
        WORKLOADS + "test_the_faithful_arm_is_the_recipes",
        "trial: a faithful arm is the consistent one",
    ),
    Mutant(
        "trainables/checks.py",
        "least = 2 if normalises else 1",
        "least = 1",
        WORKLOADS + "test_batches_that_cannot_be",
        "trial: a batch of one under batch normalisation is let through",
    ),
    Mutant(
        "trainables/recipes/nysact.py",
        '"eva": {"damping": 0.03, **FAITHFUL_EVA},',
        '"eva": {"damping": 0.3, **FAITHFUL_EVA},',
        RECIPES + "test_the_faithful_arm_has_every_cell_of_table_7",
        "trial: a cell of Table 7 is wrong",
    ),
    Mutant(
        "trainables/models/cifar_resnet.py",
        "self.added // 2, self.added // 2",
        "0, self.added",
        "tests/trainables/test_models.py::test_a_shortcut_without_parameters_subsamples_and_pads_both_sides",
        "trial: a shortcut pads behind its channels only",
    ),
    # Clusters
    Mutant(
        "trainables/store.py",
        'sum(-1 if "left" in attempt else 1 for attempt in alike)',
        "len(alike)",
        "tests/trainables/test_store.py::test_workers_that_were_told_to_leave_or_went_with_their_node_do_not_count",
        "cluster: a worker that was told to leave counts as lost",
    ),
    Mutant(
        "trainables/store.py",
        ' if self.nodes is None or attempt.get("node") in self.nodes]',
        "]",
        "tests/trainables/test_store.py::test_workers_that_were_told_to_leave_or_went_with_their_node_do_not_count",
        "cluster: a worker that went with its node counts as lost",
    ),
    Mutant(
        TRAIN,
        "if epoch < epochs - 1 and not committing:",
        "if False:",
        "tests/trainables/test_train.py::test_told_to_leave_it_commits_once_and_ends",
        "cluster: a worker that is told to leave commits nothing",
    ),
    Mutant(
        TRAIN,
        "if team.lost(error):",
        "if False:",
        "tests/trainables/test_team.py::test_a_process_that_is_lost_fails_no_trial",
        "cluster: a process of a team that dies fails the trial",
    ),
    Mutant(
        "trainables/packing.py",
        "last.memory_mb * (len(loads) + 1) / len(loads) > MEMORY",
        "last.memory_mb > MEMORY",
        "tests/trainables/test_packing.py::test_one_more_process_must_fit_and_gain",
        "cluster: one process more than fits is tried on a GPU",
    ),
    Mutant(
        "trainables/packing.py",
        "hungriest = max(group",
        "hungriest = min(group",
        "tests/trainables/test_packing.py::test_it_is_measured_once_with_the_hungriest_optimizer_and_kept",
        "cluster: the trial that is packed is the least hungry one",
    ),
    Mutant(
        "trainables/fingerprint.py",
        "digest.update(content)",
        "pass",
        "tests/cluster/test_cluster_spot.py::test_the_fingerprint_is_that_of_the_sources",
        "cluster: code of the same names and sizes passes for the same code",
    ),
    Mutant(
        "studies/harness/published/strict_yaml.py",
        "if alias and self._anchored:",
        "if False:",
        "tests/cluster/test_cluster_files.py::test_aliases_are_taken_once_and_bombs_are_refused",
        "cluster: aliases within aliases are expanded",
    ),
    Mutant(
        "studies/harness/cluster/rules.yaml",
        'available_node_types: {additionalProperties: {$ref: "#/definitions/aws_type"}}',
        'available_node_types: {properties: {head: {$ref: "#/definitions/aws_type"}}}',
        "tests/cluster/test_cluster_files.py::test_each_kind_of_machine_is_looked_at",
        "cluster: only the head's settings are checked",
    ),
    Mutant(
        "studies/harness/cluster/spot.py",
        '{"X-aws-ec2-metadata-token": session}',
        "{}",
        "tests/cluster/test_cluster_spot.py::test_a_notice_is_heard",
        "cluster: the spot notice is asked for without a session",
    ),
    # Searches
    Mutant(
        "studies/harness/kinds/search/sampling.py",
        'own_seed = stream_seed(seed, "proposal", number) % 2**32',
        "own_seed = None",
        SEARCHES + "test_a_killed_search_makes_the_proposals_of_one_that_was_not",
        "searches: a killed search goes on with other proposals",
    ),
    Mutant(
        "studies/harness/kinds/search/sampling.py",
        'system_attrs=dict(one.proposal.attributes.get("trial", {})),',
        "",
        SEARCHES + "test_what_a_sampler_notes_is_there_again",
        "searches: NSGA-II forgets which generation a configuration was of",
    ),
    Mutant(
        "studies/harness/kinds/search/proposals.py",
        "        repair_tail(self.path)\n",
        "",
        SEARCHES + "test_a_torn_last_line_is_no_proposal",
        "searches: a proposal grows onto a torn line",
    ),
    Mutant(
        "studies/harness/kinds/search/proposals.py",
        "if (stop := proposal.stopped) is not None:",
        "if (stop := None) is not None:",
        SEARCHES + "test_what_asha_stopped_is_not_submitted_again",
        "searches: what ASHA stopped is trained again",
    ),
    Mutant(
        "studies/harness/kinds/search/search.py",
        '{**self.recipe, "train_fraction": TRAIN_FRACTION}',
        "self.recipe",
        SEARCHES + "test_configurations_are_scored_on_what_was_held_out_and_winners_on_the_whole",
        "searches: configurations are scored on the test set",
    ),
    Mutant(
        "studies/harness/kinds/search/proposer.py",
        "if not again and not self.outcomes()[number].done:",
        "if not self.outcomes()[number].done:",
        SEARCHES + "test_two_equal_proposals_are_trained_once",
        "searches: two workers train the same configuration",
    ),
    # Probes
    Mutant(
        "studies/harness/kinds/probe/covariances.py",
        "islice(epochs, trainer.config.epochs - 1)",
        "islice(epochs, 0)",
        PROBES + "test_the_heatmap_is_of_the_last_epochs_training_batches",
        "probe: the heatmap is of the first epoch",
    ),
    Mutant(
        "studies/harness/kinds/probe/covariances.py",
        'f"{name}#{draw}" for draw',
        'f"{name}#0" for draw',
        PROBES + "test_the_errors_are_those_of_the_nystrom_matrix_of_the_same_columns",
        "probe: all draws of a sketch are one",
    ),
    Mutant(
        "studies/harness/kinds/probe/norms.py",
        "                seen.reset()\n",
        "",
        PROBES + "test_the_norms_are_those_of_every_step",
        "probe: the covariances of all steps so far",
    ),
    Mutant(
        PROBE,
        '"parameters": asdict(self.measurement)',
        '"parameters": {}',
        PROBES + "test_a_result_is_found_again_by_what_decides_it",
        "probe: another rank finds the same result",
    ),
    Mutant(
        PROBE,
        'aside = folder.with_name(folder.name + ".tmp")',
        "aside = folder",
        PROBES + "test_a_kill_while_writing_leaves_nothing_half_written",
        "probe: the folder is written in place",
    ),
    Mutant(
        "studies/harness/kinds/study/residuals.py",
        'if row["stable_rank"] is not None',
        'if row["residual"] is not None',
        PROBES + "test_the_residual_of_a_trial_is_its_mean_over_layers_and_epochs",
        "probe: layers that are kept exactly are left out of the mean residual",
    ),
    # What people see
    Mutant(
        "studies/harness/report/wording.py",
        'return text if float(text.rstrip("%")) else text.lstrip("+-")',
        "return text",
        SCREEN + "test_zero_has_no_sign",
        "seen: zero is printed with a sign",
    ),
    Mutant(
        "studies/harness/report/differences.py",
        "better = (row.difference > 0) == higher_is_better(metric)",
        "better = row.difference < 0",
        SCREEN + "test_levels_alike_are_said_to_be_flat_and_a_lost_trial_is_counted",
        "seen: better and worse are exchanged in words",
    ),
    Mutant(
        "studies/harness/command/screen.py",
        "force_terminal=False, color_system=None",
        "color_system=None",
        SCREEN + "test_no_color_has_no_live_display_either",
        "seen: NO_COLOR leaves the codes that move the cursor",
    ),
    Mutant(
        "studies/harness/command/screen.py",
        "if seeds != set(range(len(seeds))):",
        "if False:",
        SCREEN + "test_what_to_type_names_the_folder_the_server_or_nothing",
        "seen: more seeds are advised where the seeds were picked",
    ),
    Mutant(
        "trainables/measure.py",
        "        self._since = now\n",
        "",
        "tests/trainables/test_usage.py::test_each_reading_is_since_the_last_one",
        "seen: a worker's load is that since its start",
    ),
    Mutant(
        "studies/harness/tracking/charts.py",
        'selectedParams=["optimizer", *factors]',
        'selectedParams=["optimizer"]',
        "tests/studies/test_tracking.py::test_the_experiment_holds_a_view_of_each_workloads_configurations",
        "seen: the factor is no axis of the parallel coordinates",
    ),
]


@dataclass(frozen=True)
class Outcome:
    """What pytest said.

    Attributes:
        verdict: `killed`, `survived`, or why it is neither.
        seconds: How long it took.
        output: Its last lines.
    """

    verdict: str
    seconds: float
    output: str = ""


def repository_files() -> list[str]:
    """What git tracks or would track, of the packages and the tests."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *COPIED]
    found = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [name for name in found.split("\0") if name and (ROOT / name).is_file()]


def snapshot() -> dict[str, bytes]:
    """Their contents, read once: an edit while this runs changes nothing."""
    return {name: (ROOT / name).read_bytes() for name in repository_files()}


def pytest_in(files: dict[str, bytes], nodes: list[str]) -> tuple[int, float, str]:
    """Exit code, seconds and output of pytest on some nodes in a fresh copy; -1 when it ran out of time."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        environment = {**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        start = time.monotonic()
        try:
            done = subprocess.run(
                [sys.executable, "-c", RUN, folder, "-x", "--tb=line", "-p", "no:cacheprovider", *nodes],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=TIMEOUT * (1 if len(nodes) == 1 else 5),
            )
        except subprocess.TimeoutExpired:
            return -1, time.monotonic() - start, ""
        return done.returncode, time.monotonic() - start, done.stdout + done.stderr


def judge(mutant: Mutant, files: dict[str, bytes]) -> Outcome:
    """Run one mutant's test in a copy that has its bug."""
    text = files[mutant.file].decode() if mutant.file in files else ""
    if text.count(mutant.old) != 1:
        return Outcome(f"not applied: {mutant.file} has {text.count(mutant.old)} times {mutant.old!r}", 0)
    mutated = text.replace(mutant.old, mutant.new).encode()
    code, seconds, output = pytest_in({**files, mutant.file: mutated}, [mutant.test])
    verdict = {-1: "timed out", 0: "survived", 1: "killed" if " failed" in output else "broken"}.get(code, "broken")
    return Outcome(verdict, seconds, output)


def main(words: list[str]) -> int:
    chosen = [mutant for mutant in MUTANTS if all(word in mutant.bug for word in words)]
    if not chosen:
        print("no such mutant", file=sys.stderr)
        return 2
    files, start, bad = snapshot(), time.monotonic(), 0
    code, seconds, output = pytest_in(files, list(dict.fromkeys(mutant.test for mutant in chosen)))
    print(f"{'pass' if code == 0 else 'FAIL':8} {seconds:5.1f} s  the named tests without a mutant", flush=True)
    if code != 0:
        print(output[-4000:])
        return 1
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for mutant, outcome in zip(chosen, pool.map(lambda mutant: judge(mutant, files), chosen), strict=True):
            print(f"{outcome.verdict:8} {outcome.seconds:5.1f} s  {mutant.bug}", flush=True)
            if outcome.verdict != "killed":
                bad += 1
                print(f"         {mutant.file}, {mutant.test}\n{outcome.output[-2000:]}")
    print(f"{len(chosen) - bad} of {len(chosen)} killed in {time.monotonic() - start:.0f} s")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

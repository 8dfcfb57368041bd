"""The cause of a value that is made in the forward pass: each family of operations has a small program."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small_programs import incident_of, ordinary, with_row
from torch.distributions import Categorical

ZERO = with_row(0.0)
"""Row 3 is zero."""


def total(x):
    return x.sum(1, keepdim=True)


def absent(h):
    """No row at all."""
    return h[h.sum(1) > 1e30]


def masked_row(h, x):
    return h.masked_fill(total(x) == 0, float("-inf"))


def huge(h, power=20):
    return h * 10.0**power


def entropy_of_a_mask(h, x):
    p = h.masked_fill(h > h.median(), float("-inf")).log_softmax(1)
    return p.exp() * p


def attention_of_nothing(h, x):
    mask = torch.zeros(6, 6).masked_fill(total(x) == 0, float("-inf"))
    return (h @ h.t() + mask).softmax(-1) @ h


def multi_head_attention(h, x):
    torch.manual_seed(0)
    attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    padded = (total(x) == 0).expand(6, 3)
    s = h[:, None].expand(6, 3, 8)
    return attention(s, s, s, key_padding_mask=padded)[0]


class Wrong(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h, x):
        return h / x.sum(1, keepdim=True)

    @staticmethod
    def backward(ctx, g):
        return g, None


FORWARD = {
    # logarithms
    "log": (lambda h, x: h + total(x).log(), ZERO, "aten::log", "log_of_zero"),
    "log2": (lambda h, x: h + total(x).log2(), ZERO, "aten::log2", "log_of_zero"),
    "log10_in_place": (lambda h, x: h + total(x).clone().log10_(), ZERO, "aten::log10_", "log_of_zero"),
    "log1p": (lambda h, x: h + torch.log1p(total(x) - 1), ZERO, "aten::log1p", "log_of_zero"),
    "log_of_a_negative": (lambda h, x: h + torch.log(total(x) - 1), ZERO, "aten::log", "invalid_domain"),
    "log1p_of_less_than_minus_one": (lambda h, x: h + torch.log1p(total(x) - 2), ZERO, "aten::log1p", "invalid_domain"),
    "logit": (lambda h, x: h + torch.logit(total(x) / 100), ZERO, "aten::logit", "log_of_zero"),
    "xlogy": (lambda h, x: torch.xlogy(h.abs() + 1, total(x)), ZERO, "aten::xlogy", "log_of_zero"),
    "kl_div_of_a_log_of_zero": (
        lambda h, x: F.kl_div(torch.log(h.softmax(1) * total(x).sign()), h.detach().softmax(1), reduction="none"),
        ZERO, "aten::log", "log_of_zero",
    ),
    "kl_div_with_a_negative_target": (
        lambda h, x: F.kl_div(h, (total(x) - 1).expand_as(h), reduction="none"), ZERO, "aten::xlogy", "invalid_domain",
    ),
    "entropy_of_a_zero": (lambda h, x: h - total(x) * total(x).log(), ZERO, "aten::log", "log_of_zero"),
    # divisions
    "div": (lambda h, x: h / total(x), ZERO, "aten::div", "division_by_zero"),
    "div_of_zeros": (lambda h, x: (h * total(x)) / total(x), ZERO, "aten::div", "division_by_zero"),
    "div_in_place": (lambda h, x: (h * 1.0).div_(total(x)), ZERO, "aten::div_", "division_by_zero"),
    "div_by_a_number": (lambda h, x: h / 0.0, None, "aten::div", "division_by_zero"),
    "reciprocal": (lambda h, x: h * total(x).reciprocal(), ZERO, "aten::reciprocal", "division_by_zero"),
    "rsqrt": (lambda h, x: h * total(x).rsqrt(), ZERO, "aten::rsqrt", "division_by_zero"),
    "rsqrt_of_a_negative": (lambda h, x: h * (total(x) - 1).rsqrt(), ZERO, "aten::rsqrt", "invalid_domain"),
    "remainder": (lambda h, x: torch.remainder(h, total(x)), ZERO, "aten::remainder", "division_by_zero"),
    "fmod": (lambda h, x: torch.fmod(h, total(x)), ZERO, "aten::fmod", "division_by_zero"),
    "addcdiv": (lambda h, x: torch.addcdiv(h, h, total(x)), ZERO, "aten::addcdiv", "division_by_zero"),
    "nearly_zero": (lambda h, x: h / (total(x) + 1e-42), ZERO, "aten::div", "division_by_zero"),
    "custom_function_forward": (Wrong.apply, ZERO, "aten::div", "division_by_zero"),
    # powers, roots and functions that are not defined everywhere
    "sqrt": (lambda h, x: h + (total(x) - 1).sqrt(), ZERO, "aten::sqrt", "invalid_domain"),
    "pow_fraction_of_a_negative": (lambda h, x: h + (total(x) - 1) ** 0.3, ZERO, "aten::pow", "invalid_domain"),
    "pow_minus_one": (lambda h, x: h + total(x) ** -1.0, ZERO, "aten::pow", "division_by_zero"),
    "pow_tensor": (lambda h, x: h + total(x) ** -total(x).exp(), ZERO, "aten::pow", "division_by_zero"),
    "pow_of_two": (lambda h, x: h + 2.0 ** (1000 * total(x)), None, "aten::pow", "overflow_exp"),
    "pow_of_huge": (lambda h, x: huge(h) ** 3, None, "aten::pow", "exploding_activation"),
    "acos": (lambda h, x: h + torch.acos(total(x)), None, "aten::acos", "invalid_domain"),
    "asin": (lambda h, x: h + torch.asin(total(x)), None, "aten::asin", "invalid_domain"),
    "acosh": (lambda h, x: h + torch.acosh(total(x)), ZERO, "aten::acosh", "invalid_domain"),
    "atanh_at_its_pole": (lambda h, x: h + torch.atanh(1 - total(x)), ZERO, "aten::atanh", "invalid_domain"),
    "erfinv_at_its_pole": (
        lambda h, x: h + torch.erfinv(1 - total(x).sign() * 0.5), ZERO, "aten::erfinv", "invalid_domain",
    ),
    "ndtri": (lambda h, x: h + torch.special.ndtri(total(x) / 20), ZERO, "aten::special_ndtri", "invalid_domain"),
    "lgamma": (lambda h, x: h + torch.lgamma(total(x)), ZERO, "aten::lgamma", "invalid_domain"),
    "digamma": (lambda h, x: h + torch.digamma(total(x)), ZERO, "aten::digamma", "invalid_domain"),
    "polygamma": (lambda h, x: h + torch.polygamma(1, total(x)), ZERO, "aten::polygamma", "invalid_domain"),
    # exponentials
    "exp": (lambda h, x: h + (100 * total(x)).exp(), None, "aten::exp", "overflow_exp"),
    "expm1": (lambda h, x: h + torch.expm1(100 * total(x)), None, "aten::expm1", "overflow_exp"),
    "exp2": (lambda h, x: h + torch.exp2(100 * total(x)), None, "aten::exp2", "overflow_exp"),
    "cosh": (lambda h, x: h + torch.cosh(100 * total(x)), None, "aten::cosh", "overflow_exp"),
    "poisson_nll": (lambda h, x: F.poisson_nll_loss(100 * total(x) + h, h.detach()), None, "aten::exp", "overflow_exp"),
    "matrix_exp": (
        lambda h, x: torch.matrix_exp(100 * total(x)[:2] * (h[:2, :2] * 0 + 1)), None, "aten::linalg_matrix_exp",
        "overflow_exp",
    ),
    # masks
    "softmax": (lambda h, x: masked_row(h, x).softmax(1), ZERO, "aten::_softmax", "masked_softmax"),
    "log_softmax": (lambda h, x: masked_row(h, x).log_softmax(1), ZERO, "aten::_log_softmax", "masked_softmax"),
    "logsumexp_less_itself": (
        lambda h, x: masked_row(h, x) - masked_row(h, x).logsumexp(1, keepdim=True), ZERO, "aten::sub",
        "masked_softmax",
    ),
    "categorical": (
        lambda h, x: Categorical(logits=masked_row(h, x), validate_args=False).logits, ZERO, "aten::sub",
        "masked_softmax",
    ),
    "entropy_of_a_mask": (entropy_of_a_mask, None, "aten::mul", "masked_softmax"),
    "attention": (attention_of_nothing, ZERO, None, "masked_softmax"),
    "multi_head_attention": (multi_head_attention, ZERO, None, "masked_softmax"),
    # reductions of nothing
    "mean": (lambda h, x: h + absent(h).mean(), None, "aten::mean", "empty_reduction"),
    "mean_of_rows": (lambda h, x: h + absent(h).mean(0), None, "aten::mean", "empty_reduction"),
    "median": (lambda h, x: h + absent(h).median(), None, "aten::median", "empty_reduction"),
    "logsumexp_of_nothing": (lambda h, x: h + absent(h).logsumexp(0), None, "aten::logsumexp", "empty_reduction"),
    "cross_entropy_all_ignored": (
        lambda h, x: F.cross_entropy(h, torch.full((6,), -100)), None, "aten::nll_loss_forward", "empty_reduction",
    ),
    "cross_entropy_of_weight_zero": (
        lambda h, x: F.cross_entropy(h, torch.zeros(6).long(), weight=torch.arange(8.0)), None,
        "aten::nll_loss_forward", "empty_reduction",
    ),
    "masked_mean_by_hand": (
        lambda h, x: (h * (x[:, :1] > 9)).sum() / (x[:, :1] > 9).sum(), None, "aten::div", "division_by_zero",
    ),
    # linear algebra
    "inverse": (
        lambda h, x: torch.linalg.inv_ex(h[:2, :2] * 0 + 1)[0], None, "aten::linalg_inv_ex", "degenerate_linalg",
    ),
    "solve_triangular": (
        lambda h, x: torch.linalg.solve_triangular(torch.diag(total(x)[:, 0]), h, upper=True), ZERO,
        "aten::linalg_solve_triangular", "degenerate_linalg",
    ),
    "logdet_of_a_negative_determinant": (
        lambda h, x: torch.logdet(torch.diag(torch.tensor([-1.0, 1.0])) + 0 * h[:2, :2]), None, None, "invalid_domain",
    ),
    # normalisation
    "layer_norm_without_eps": (
        lambda h, x: F.layer_norm(h * total(x), (8,), eps=0.0), ZERO, "aten::native_layer_norm", "division_by_zero",
    ),
    "cosine_by_hand": (
        lambda h, x: (h * total(x)) / (h * total(x)).norm(dim=1, keepdim=True), ZERO, "aten::div", "division_by_zero",
    ),
    "rms_norm_by_hand": (
        lambda h, x: (h * total(x)) * (h * total(x)).pow(2).mean(1, keepdim=True).rsqrt(), ZERO, "aten::rsqrt",
        "division_by_zero",
    ),
    # growth
    "matmul": (lambda h, x: huge(h) @ huge(h).t(), None, "aten::mm", "exploding_activation"),
    "bmm": (lambda h, x: torch.bmm(huge(h)[None], huge(h).t()[None]), None, "aten::bmm", "exploding_activation"),
    "mul": (lambda h, x: huge(h) * huge(h), None, "aten::mul", "exploding_activation"),
    "square": (lambda h, x: huge(h).square(), None, "aten::pow", "exploding_activation"),
    "sum": (lambda h, x: (h.abs() * 1e38 * 2).sum(), None, "aten::sum", "exploding_activation"),
    "cumprod": (
        lambda h, x: torch.cumprod(h.new_full((60,), 20.0) + 0 * h.sum(), 0), None, "aten::cumprod",
        "exploding_activation",
    ),
    "prod": (lambda h, x: (h.new_full((60,), 20.0) + 0 * h.sum()).prod(), None, "aten::prod", "exploding_activation"),
    "variance": (lambda h, x: huge(h).var(1), None, "aten::var", "exploding_activation"),
    "norm": (lambda h, x: huge(h, 30).norm(3), None, "aten::linalg_vector_norm", "exploding_activation"),
    "mse_loss": (lambda h, x: F.mse_loss(huge(h), h), None, "aten::mse_loss", "exploding_activation"),
    "convolution": (
        lambda h, x: F.conv1d(huge(h)[None], huge(h).detach().t()[:, :6, None]), None, "aten::convolution",
        "exploding_activation",
    ),
    "cumsum": (lambda h, x: (h.abs() * 2e38).cumsum(1), None, "aten::cumsum", "exploding_activation"),
    "batch_norm_of_huge_values": (
        lambda h, x: F.batch_norm(huge(h), None, None, training=True) * 1e30 * huge(h), None, "aten::mul",
        "exploding_activation",
    ),
    "layer_by_layer": (lambda h, x: [h := h @ (h.t() @ h) for _ in range(9)][-1] * 1e6, None, "aten::mm",
                       "exploding_activation"),
    "huber": (lambda h, x: F.huber_loss(huge(h, 38) * 2, h, delta=1e3), None, "aten::huber_loss",
              "exploding_activation"),
    "bce_with_logits": (
        lambda h, x: F.binary_cross_entropy_with_logits(huge(h, 37).abs() * 9, -huge(h, 1).abs()), None, None,
        "exploding_activation",
    ),
    "gaussian_nll": (lambda h, x: F.gaussian_nll_loss(huge(h), h, h.abs()), None, "aten::pow", "exploding_activation"),
    "embedding_bag": (
        lambda h, x: F.embedding_bag(torch.zeros(1, 9).long(), huge(h.abs(), 38) * 2, mode="sum"), None, None,
        "exploding_activation",
    ),
    "index_add": (
        lambda h, x: torch.zeros(1, 8).index_add(0, torch.zeros(6).long(), huge(h.abs() + 1, 38)), None,
        "aten::index_add", "exploding_activation",
    ),
    "scatter_add": (
        lambda h, x: torch.zeros(1, 8).scatter_add(0, torch.zeros(6, 8).long(), huge(h.abs() + 1, 38)), None,
        "aten::scatter_add", "exploding_activation",
    ),
    "fft": (lambda h, x: torch.fft.rfft(huge(h.abs() + 1, 38)).abs(), None, None, "exploding_activation"),
    "complex_abs": (
        lambda h, x: torch.complex(huge(h.abs() + 1, 38) * 1.4, huge(h.abs() + 1, 38) * 1.4).abs() * 2, None, None,
        "exploding_activation",
    ),
    "upsample": (
        lambda h, x: F.interpolate(huge(h[None] * 0 + 3, 38) * torch.tensor([1.0, -1] * 4), size=12, mode="linear"),
        None, None, "exploding_activation",
    ),
    "grid_sample": (
        lambda h, x: F.grid_sample(huge(h[None, None, :4, :4]) * 0 + 3e38, 0.1 * h[None, :4, None, :2], mode="bicubic")
        * 4, None, None, "exploding_activation",
    ),
    "lerp": (lambda h, x: torch.lerp(-huge(h * 0 + 3, 38), huge(h * 0 + 3, 38), 0.7), None, None,
             "exploding_activation"),
    "baddbmm": (
        lambda h, x: torch.baddbmm(h[None], huge(h)[None], huge(h.t() @ h)[None]), None, "aten::baddbmm",
        "exploding_activation",
    ),
    "group_norm_of_huge_values": (lambda h, x: F.group_norm(huge(h, 38) * 3, 2), None, None, "exploding_activation"),
    "cdist": (lambda h, x: torch.cdist(huge(h), huge(h) * 2), None, None, "exploding_activation"),
    "logcumsumexp_is_stable_but_not_its_exponential": (
        lambda h, x: (h.abs() * 100 + 100).logcumsumexp(1).exp(), None, "aten::exp", "overflow_exp",
    ),
    "sinh": (lambda h, x: h + torch.sinh(100 * total(x)), None, "aten::sinh", "overflow_exp"),
    "weight_norm_of_zeros": (
        lambda h, x: torch._weight_norm(h * total(x), total(x), 0), ZERO, None, "division_by_zero",
    ),
    "zeta_at_its_pole": (
        lambda h, x: h + torch.special.zeta(total(x) + 1, torch.tensor(1.0)).detach(), ZERO, None, "invalid_domain",
    ),
    "entr": (lambda h, x: h + torch.special.entr(total(x) - 1), ZERO, None, "invalid_domain"),
    "i0": (lambda h, x: torch.special.i0(100 * total(x)) + h, None, None, "overflow_exp"),
    "nanmean_of_nothing": (lambda h, x: h + absent(h).nanmean(), None, None, "division_by_zero"),
    "mvlgamma": (lambda h, x: h + torch.mvlgamma(total(x) + 0.5, 2), ZERO, "aten::mvlgamma", "invalid_domain"),
    # what came so with the batch
    "absurd_number_in_the_batch": (lambda h, x: h + (x * x).sum(), with_row(3e25), "aten::mul", "bad_input"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FORWARD)
def test_forward(tmp_path, name):
    function, x, op, label = FORWARD[name]
    incident = incident_of(tmp_path, function, x)
    said = f"{incident.origin}\n{incident.cause}"
    assert incident.cause.label == label, said
    assert op in {None, incident.origin.op}, said
    assert incident.cause.why
    if incident.origin.batch_rows == (3,):
        assert "in row 3" in incident.cause.why[0], said


LOW_PRECISION = {
    "matmul": (lambda h, x: (h * 200) @ (h * 200).t(), "overflow_low_precision"),
    "sum": (lambda h, x: (h.abs() * 0 + 3e4).sum(), "overflow_low_precision"),
    "exp": (lambda h, x: (h * 0 + 12).exp(), "overflow_low_precision"),
    "exp_of_too_much": (lambda h, x: (h * 0 + 100).exp(), "overflow_exp"),
    "cast": (lambda h, x: (h.float() * 1e6).half(), "overflow_low_precision"),
    "gelu_of_a_product": (lambda h, x: F.gelu((h * 0 + 300) * 300), "overflow_low_precision"),
    "layer_norm_then_matmul": (
        lambda h, x: F.layer_norm(h, (8,)) * 300 @ (F.layer_norm(h, (8,)) * 300).t(),
        "overflow_low_precision",
    ),
    "mse": (lambda h, x: F.mse_loss(h * 0 + 300, h), "overflow_low_precision"),
    "pow": (lambda h, x: (h * 0 + 300) ** 2, "overflow_low_precision"),
    "pow_in_place": (lambda h, x: (h * 0 + 300).pow_(2), "overflow_low_precision"),
    "eps_that_rounds_to_zero": (lambda h, x: h / (h * 0 + 1e-8), "division_by_zero"),
    "nearly_zero": (lambda h, x: (h * 0 + 1) / (h * 0 + 1e-7), "overflow_low_precision"),
    "log_of_zero": (lambda h, x: (h * 0).log(), "log_of_zero"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LOW_PRECISION)
def test_float16(tmp_path, name):
    function, label = LOW_PRECISION[name]
    incident = incident_of(tmp_path, function, dtype=torch.float16)
    assert incident.cause.label == label, f"{incident.origin}\n{incident.cause}"


def test_bfloat16_has_the_range_of_float32(tmp_path):
    incident = incident_of(tmp_path, lambda h, x: (h * 0 + 100).exp(), dtype=torch.bfloat16)
    assert incident.cause.label == "overflow_exp"


def test_std_of_one(tmp_path):
    with pytest.warns(UserWarning, match="degrees of freedom"):
        incident = incident_of(tmp_path, lambda h, x: h[:1].std(0))
    assert (incident.origin.op, incident.cause.label) == ("aten::std", "empty_reduction")


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_a_number_that_python_made_is_unknown(tmp_path, number):
    incident = incident_of(tmp_path, lambda h, x: h * number)
    assert incident.cause.label == "unknown"
    assert str(number) in incident.cause.why[0]


def test_ctc_target_longer_than_its_input(tmp_path):
    def function(h, x):
        scores = h[:, None].log_softmax(-1)
        return F.ctc_loss(scores, torch.ones(1, 5).long(), torch.tensor([6]), torch.tensor([5]))

    incident = incident_of(tmp_path, function)
    assert incident.cause.label == "bad_label"
    assert any("zero_infinity" in fix for fix in incident.cause.fix)


def test_why_names_line_rows_and_value(tmp_path):
    def function(h, x):
        p = x.sum(1, keepdim=True)
        return h + torch.log(p)

    incident = incident_of(tmp_path, function, ZERO)
    line = function.__code__.co_firstlineno + 2
    place = f"test_cause_forward.py:{line}"
    assert incident.cause.why[0] == (
        f"`return h + torch.log(p)` at {place} takes log of 0.0, in row 3 (position [3, 0])."
    )
    assert incident.cause.fix[0].startswith(f"At {place}: ")


def test_ordinary_batch_is_ordinary():
    assert ordinary().min() >= 0.5

"""Operations by what makes them give a non-finite value. Names are short: `aten::_log_softmax` is `log_softmax`."""

from __future__ import annotations


def short(op: str) -> str:
    """`aten::_log_softmax` -> `log_softmax`, `aten::div_` -> `div`, `aten::_foreach_sqrt` -> `sqrt`."""
    return op.rpartition("::")[2].strip("_").removeprefix("foreach_")


LOGS = frozenset(
    {"log", "log2", "log10", "log1p", "xlogy", "special_xlog1py", "logit", "special_entr", "binary_cross_entropy"}
)
"""Minus infinity at the lower end of where they are defined."""

DIVISIONS = frozenset(
    {"div", "reciprocal", "rsqrt", "true_divide", "divide", "floor_divide", "remainder", "fmod", "addcdiv"}
)

ROOTS = frozenset(
    {"sqrt", "linalg_vector_norm", "norm", "norm_except_dim", "cdist_forward", "cdist", "euclidean_dist",
     "pdist_forward", "hypot", "native_norm", "std", "std_mean", "dist"}
)  # fmt: skip
"""Their gradient at 0 is 1 / 0."""

POWERS = frozenset({"pow", "float_power", "square"})

EXPONENTIALS = frozenset(
    {"exp", "exp2", "expm1", "sinh", "cosh", "softplus", "logaddexp", "special_i0", "special_i1", "i0", "special_erfcx",
     "linalg_matrix_exp"}
)  # fmt: skip

SOFTMAXES = frozenset({"softmax", "log_softmax", "safe_softmax", "softmax_data", "log_softmax_data", "logsumexp",
                       "logcumsumexp", "masked_softmax"})  # fmt: skip

ATTENTIONS = frozenset(
    {"scaled_dot_product_attention", "scaled_dot_product_flash_attention_for_cpu", "scaled_dot_product_flash_attention",
     "scaled_dot_product_efficient_attention", "scaled_dot_product_cudnn_attention",
     "scaled_dot_product_fused_attention_overrideable", "scaled_dot_product_attention_math",
     "native_multi_head_attention", "flash_attention_forward", "efficient_attention_forward"}
)  # fmt: skip

NLL_LOSSES = frozenset({"nll_loss", "nll_loss_forward", "nll_loss2d", "nll_loss2d_forward", "cross_entropy_loss"})

SPREADS = frozenset({"std", "var", "var_mean", "std_mean"})
"""Of a single element they are 0 / 0."""

REDUCTIONS = SPREADS | {"mean", "median", "nanmedian", "nanmean", "quantile", "segment_reduce", "max", "min", "amax",
                        "amin", "linalg_vector_norm", "logsumexp"}  # fmt: skip

NORMALISATIONS = frozenset(
    {"native_layer_norm", "native_group_norm", "native_batch_norm", "native_batch_norm_legit",
     "native_batch_norm_legit_no_training", "native_batch_norm_legit_functional", "cudnn_batch_norm",
     "miopen_batch_norm", "batch_norm_with_update", "batch_norm_with_update_functional", "batch_norm_no_update",
     "fused_rms_norm", "rms_norm", "layer_norm", "group_norm", "batch_norm", "batch_norm_impl_index"}
)  # fmt: skip

SELECTIONS = frozenset({"where", "masked_fill", "index", "masked_select", "nan_to_num", "masked_scatter"})
"""They keep some elements and drop others."""

WEIGHT_NORMS = frozenset({"weight_norm", "weight_norm_interface", "renorm"})

LINALG = frozenset(
    {"linalg_eigh", "linalg_eig", "linalg_eigvals", "linalg_eigvalsh", "linalg_svd", "linalg_svdvals", "linalg_qr",
     "linalg_inv_ex", "linalg_inv", "linalg_pinv", "linalg_cholesky_ex", "linalg_cholesky", "linalg_solve_ex",
     "linalg_solve_triangular", "linalg_lu", "linalg_lu_factor_ex", "linalg_lu_solve", "linalg_ldl_factor_ex",
     "linalg_ldl_solve", "linalg_det", "linalg_slogdet", "linalg_lstsq", "linalg_householder_product", "cholesky",
     "cholesky_solve", "cholesky_inverse", "lu_solve", "lu_unpack", "triangular_solve", "slogdet", "logdet", "det",
     "svd", "symeig", "inverse", "qr"}
)  # fmt: skip

POLES: dict[str, str] = {
    "acos": "between -1 and 1",
    "asin": "between -1 and 1",
    "atanh": "between -1 and 1, the ends left out",
    "acosh": "from 1 on",
    "lgamma": "everywhere but at 0, -1, -2 ...",
    "mvlgamma": "above (p - 1) / 2",
    "digamma": "everywhere but at 0, -1, -2 ...",
    "special_digamma": "everywhere but at 0, -1, -2 ...",
    "polygamma": "everywhere but at 0, -1, -2 ...",
    "special_polygamma": "everywhere but at 0, -1, -2 ...",
    "erfinv": "between -1 and 1, the ends left out",
    "special_erfinv": "between -1 and 1, the ends left out",
    "special_ndtri": "between 0 and 1, the ends left out",
    "special_zeta": "above 1",
    "special_bessel_y0": "above 0",
    "special_bessel_y1": "above 0",
    "tan": "everywhere but at odd multiples of pi / 2",
    "igamma": "above 0",
    "igammac": "above 0",
}
"""Functions that are NaN outside of where they are defined or infinite at its ends -> where they are defined."""

GROWING = frozenset(
    {"mul", "add", "sub", "rsub", "sum", "mean", "mm", "bmm", "addmm", "baddbmm", "addbmm", "addmv", "mv", "dot",
     "vdot", "addr", "ger", "outer", "einsum", "linear", "matmul", "convolution", "convolution_overrideable", "cumsum",
     "cumprod", "prod", "nansum", "lerp", "addcmul", "mse_loss", "huber_loss", "smooth_l1_loss", "l1_loss",
     "binary_cross_entropy_with_logits", "linalg_vector_norm", "norm", "hypot", "var", "std", "var_mean", "std_mean",
     "cdist_forward", "euclidean_dist", "pdist_forward", "dist", "embedding_bag", "index_add", "scatter_add",
     "scatter_reduce", "index_put", "index_reduce", "trapezoid", "cross", "linalg_cross", "trace", "kron"}
)  # fmt: skip
"""Sums and products: they overflow only when what they are given is (nearly) too large already."""

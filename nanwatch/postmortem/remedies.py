"""What to change, for each cause, in the words practitioners use; the most specific remedy first."""

from __future__ import annotations

FIX_OF_CTC = "Check that each target fits its input length, or pass zero_infinity=True."

FIX_OF_RUNAWAY = (
    "An exponent this large has diverged: lower the learning rate, clip gradients, and bound it only then: "
    "torch.exp(x.clamp(max=80))."
)

REMEDIES: dict[str, tuple[str, ...]] = {
    "log_of_zero": (
        "Clamp before the log: torch.log(x.clamp(min=1e-8)).",
        "For a classifier work with logits: F.log_softmax or binary_cross_entropy_with_logits never form the zero.",
    ),
    "division_by_zero": (
        "Keep the divisor away from zero: x / d.clamp(min=1e-8), or x / (d + eps).",
        "For norms use F.normalize(x, eps=1e-8); for masked means divide by mask.sum().clamp(min=1).",
    ),
    "sqrt_zero_grad": (
        "Add a small number under the root: torch.sqrt(x + 1e-8). Clamping the result does not help the gradient.",
        "For distances, square them instead, or mask exact zeros before the root (not after it).",
    ),
    "pow_zero_grad": ("Add a small number to the base: (x + 1e-8) ** p; the gradient at 0 is infinite for p < 1.",),
    "where_gradient": (
        "Mask the input as well as the output: torch.where(ok, torch.log(torch.where(ok, x, 1.0)), 0.0).",
        "torch.where multiplies the branch not taken by 0 in backward, and 0 * inf is NaN.",
    ),
    "invalid_domain": (
        "Clamp the input into the function's domain, a little inside its ends.",
        "Rounding leaves values such as -1e-9 or 1.0000001 where mathematics says 0 or 1.",
    ),
    "overflow_exp": (
        "Bound the exponent: torch.exp(x.clamp(max=80)), or compute with torch.logsumexp / softplus.",
        "If the exponent grew during training, lower the learning rate or clip gradients.",
    ),
    "overflow_low_precision": (
        "Run this operation in float32: with torch.autocast(device_type, enabled=False): on x.float().",
        "Or use bfloat16, which has float32's range; scale attention scores before, not after, the product.",
    ),
    "exploding_activation": (
        "Look where the magnitude grew (the table of magnitudes): normalise there (LayerNorm, RMSNorm).",
        "Lower the learning rate, clip gradients at 1.0, and check the initialisation (He for ReLU, Xavier for tanh).",
    ),
    "masked_softmax": (
        "Leave at least one position of every row unmasked, or drop rows that are masked completely.",
        "Or fill with a large negative number (torch.finfo(dtype).min) instead of -inf and zero the row afterwards.",
    ),
    "empty_reduction": (
        "Skip the term when there is nothing to reduce: x.mean() if x.numel() else x.sum() * 0.",
        "Divide by max(count, 1) where the count comes from a mask.",
    ),
    "bad_input": (
        "Look at the rows named in this report; drop or repair them where the data set is built.",
        "Check while loading: assert torch.isfinite(x).all(), with the sample's id in the message.",
    ),
    "bad_label": (
        "Look at the targets of the rows named in this report; drop or repair them where the data set is built.",
    ),
    "bad_init": (
        "Initialise the parameter: nn.init.kaiming_normal_ (ReLU), nn.init.xavier_uniform_ (tanh), zeros for a bias.",
    ),
    "bad_checkpoint": ("Check the checkpoint: every tensor of it should be finite; load an earlier one if not.",),
    "uninitialised_memory": (
        "torch.empty does not initialise: use torch.zeros, or nn.init.* right after it.",
        "Run once with torch.use_deterministic_algorithms(True): it fills such memory with NaN, so the fault repeats.",
    ),
    "degenerate_linalg": (
        "Add a small multiple of the identity before the decomposition: A + 1e-6 * torch.eye(n).",
        "The gradient of eigenvectors is infinite where eigenvalues repeat: break ties with a little noise, or detach.",
    ),
    "custom_function_bug": ("Check the backward of the autograd.Function with torch.autograd.gradcheck in float64.",),
    "optimizer_eps": ("Raise eps (1e-8 is 0 in float16: use 1e-4), or keep float32 master weights under autocast.",),
    "nonfinite_lr": ("Check the learning-rate schedule: it returned a value that is not finite.",),
    "lr_too_high": (
        "Lower the learning rate by ten and warm it up over the first few hundred steps.",
        "Clip gradients: torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).",
    ),
    "exploding_gradient": (
        "Clip gradients: torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).",
        "Lower the learning rate; add normalisation or residual connections where the gradient grows.",
    ),
    "unknown": (
        "Look at the inputs of the operation named above: which of them is extreme?",
        "Run the bundle's replay.py with the batch, and change one thing at a time.",
    ),
}

"""The algebra of weight edits on a `Checkpoint`: removals of directions in their published forms, and their look-alikes.

Notation: W is a writer as (d, n), r a unit direction of the residual stream or R an orthonormal (d, k) basis, D the
diagonal of W's row norms. Every edit is computed in float32 and rounded once to the stored dtype unless said otherwise.
"""

import torch


def unit(vector):
    return vector / vector.norm()


def basis(vectors):
    """Orthonormal columns spanning the given ones."""
    return torch.linalg.qr(vectors)[0]


def random_direction(width, seed):
    return unit(torch.randn(width, generator=torch.Generator().manual_seed(seed)))


def as_columns(direction):
    return direction[:, None] if direction.dim() == 1 else direction


def removed_raw(w, r, strength):
    """W - λ R Rᵀ W."""
    return w - strength * (r @ (r.T @ w))


def removed_row_scaled(w, r, strength):
    """W - λ D R Rᵀ D⁻¹ W: the removal in row-normalised coordinates, without restoring the norms."""
    norms = row_norms(w)
    return w - strength * norms * (r @ (r.T @ (w / norms)))


def removed_row_renormalised(w, r, strength, rank=3):
    """The removal in row-normalised coordinates, rows brought back to their norms, the change truncated to `rank`."""
    change = removed_row_renormalised_exact(w, r, strength) - w
    u, s, v = torch.linalg.svd(change, full_matrices=False)
    return w + (u[:, :rank] * s[:rank]) @ v[:rank]


def removed_row_renormalised_exact(w, r, strength):
    """D · rownorm((I - λ R Rᵀ) D⁻¹ W)."""
    norms = row_norms(w)
    unit_rows = removed_raw(w / norms, r, strength)
    return norms * unit_rows / row_norms(unit_rows)


def removed_row_norms_kept(w, r, strength):
    """S (I - λ R Rᵀ) W with S restoring each row's norm."""
    out = removed_raw(w, r, strength)
    return out * row_norms(w) / row_norms(out)


def removed_column_norms_kept(w, r, strength):
    """(I - λ R Rᵀ) W K with K restoring each column's norm."""
    out = removed_raw(w, r, strength)
    return out * row_norms(w.T).T / row_norms(out.T).T


def removed_frobenius_kept(w, r, strength):
    """(I - λ R Rᵀ) W times one scalar that restores the Frobenius norm."""
    out = removed_raw(w, r, strength)
    return out * (w.norm() / out.norm())


def removed_rounded_change(w, r, strength):
    """W + bf16(-λ R Rᵀ W): the change itself is rounded before it is added."""
    return w + (-strength * (r @ (r.T @ w))).bfloat16().float()


def removed_rounded_projector(w, r, strength):
    """W - bf16(λ R Rᵀ) W, multiplied in bf16 as the oldest tools did."""
    projector = (strength * (r @ r.T)).bfloat16()
    return w - (projector @ w.bfloat16()).float()


def row_norms(w):
    return w.norm(dim=1, keepdim=True).clamp_min(1e-12)


FORMS = {
    "raw": removed_raw,
    "row-scaled": removed_row_scaled,
    "row-renormalised-rank3": removed_row_renormalised,
    "row-renormalised-exact": removed_row_renormalised_exact,
    "row-norms-kept": removed_row_norms_kept,
    "column-norms-kept": removed_column_norms_kept,
    "frobenius-kept": removed_frobenius_kept,
    "rounded-change": removed_rounded_change,
    "rounded-projector": removed_rounded_projector,
}


def remove_direction(base, direction, strength, form="raw"):
    """Remove `direction(layer, module)` from the writers.

    `strength` maps a module to one λ per layer; a missing module or λ = 0 leaves the tensor's bytes alone.
    """
    out = base.copy()
    for writer in base.writers():
        lam = strength.get(writer.module, [0.0] * base.layers)[writer.layer]
        if lam:
            r = as_columns(direction(writer.layer, writer.module))
            out.replace(writer, FORMS[form](base.matrix(writer), r, lam))
    return out


def remove_from_readers(base, direction, strength):
    """W - λ (W r) rᵀ on the readers named in `strength`."""
    out = base.copy()
    for reader in base.readers():
        lam = strength.get(reader.module, [0.0] * base.layers)[reader.layer]
        if lam:
            r, w = as_columns(direction(reader.layer, reader.module)), base.matrix(reader)
            out.replace(reader, w - lam * ((w @ r) @ r.T))
    return out


def remove_from_embeddings(checkpoint, direction):
    """E (I - r rᵀ) on the token embeddings (with tied weights the output matrix too)."""
    out, r = checkpoint.copy(), as_columns(direction)
    for name in checkpoint.embeddings():
        e = checkpoint.tensors[name].float()
        out.tensors[name] = (e - (e @ r) @ r.T).to(checkpoint.tensors[name].dtype)
    return out


def tent(layers, peak, position, floor, distance):
    """λ per layer, piecewise linear around `position`, zero beyond `distance`, `floor` at its edge."""
    out = []
    for layer in range(layers):
        d = abs(layer - position)
        out.append(0.0 if d > distance else round(peak + d / distance * (floor - peak), 4))
    return out


def constant(base, value, modules=None, layers=None):
    """The same λ for all writers of the given modules and layers, zero elsewhere."""
    layers = range(base.layers) if layers is None else layers
    modules = modules or base.writer_modules()
    return {m: [value if layer in layers else 0.0 for layer in range(base.layers)] for m in modules}


def mix(first, second, share=0.5, names=None):
    """Linear interpolation of two checkpoints: (1 - share) first + share second."""
    out = first.copy()
    for name, tensor in first.tensors.items():
        if name in second.tensors and not torch.equal(tensor, second.tensors[name]):
            a, b = tensor.float(), second.tensors[name].float()
            out.tensors[name] = (a + share * (b - a)).to(tensor.dtype)
    return out


def slerp(first, second, share=0.5):
    """Spherical interpolation per tensor, linear where the tensors are nearly parallel."""
    out = first.copy()
    for name, tensor in first.tensors.items():
        a, b = tensor.float(), second.tensors[name].float()
        cosine = torch.dot(unit(a.flatten()), unit(b.flatten())).clamp(-1, 1)
        if cosine > 0.9995:
            mixed = a + share * (b - a)
        else:
            angle = torch.acos(cosine)
            mixed = (torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b) / torch.sin(angle)
        out.tensors[name] = mixed.to(tensor.dtype)
    return out


def add_task_vectors(base, tuned, weights):
    """base + Σ weight · (tuned - base)."""
    out = base.copy()
    for name, tensor in base.tensors.items():
        total = tensor.float()
        for other, weight in zip(tuned, weights):
            total = total + weight * (other.tensors[name].float() - tensor.float())
        out.tensors[name] = total.to(tensor.dtype)
    return out


def dare(base, tuned, density=0.5, seed=0):
    """DARE: each task vector's entries dropped at random and the rest rescaled, then averaged and added."""
    generator, out = torch.Generator().manual_seed(seed), base.copy()
    for name, tensor in base.tensors.items():
        total = tensor.float()
        for other in tuned:
            change = other.tensors[name].float() - tensor.float()
            kept = (torch.rand(change.shape, generator=generator) < density).float()
            total = total + change * kept / density / len(tuned)
        out.tensors[name] = total.to(tensor.dtype)
    return out


def ties(base, tuned, density=0.3):
    """TIES: each task vector trimmed to its largest entries, signs elected, agreeing entries averaged."""
    out = base.copy()
    for name, tensor in base.tensors.items():
        trimmed = []
        for other in tuned:
            change = other.tensors[name].float() - tensor.float()
            keep = max(1, int(density * change.numel()))
            threshold = change.abs().flatten().kthvalue(change.numel() - keep + 1).values
            trimmed.append(torch.where(change.abs() >= threshold, change, torch.zeros_like(change)))
        stack = torch.stack(trimmed)
        agreeing = (stack.sign() == stack.sum(0).sign()) & (stack != 0)
        merged = (stack * agreeing).sum(0) / agreeing.sum(0).clamp_min(1)
        out.tensors[name] = (tensor.float() + merged).to(tensor.dtype)
    return out


def fp8_cast(w):
    """A plain round trip through fp8 e4m3."""
    return w.clamp(-448, 448).to(torch.float8_e4m3fn).float()


def fp8_per_channel(w):
    """A round trip through fp8 e4m3 with one scale per row."""
    scale = w.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / 448
    return (w / scale).to(torch.float8_e4m3fn).float() * scale


def fp8_block128(w):
    """A round trip through fp8 e4m3 with one scale per 128 x 128 block."""
    out = w.clone()
    for i in range(0, w.shape[0], 128):
        for j in range(0, w.shape[1], 128):
            block = w[i : i + 128, j : j + 128]
            scale = block.abs().max().clamp_min(1e-12) / 448
            out[i : i + 128, j : j + 128] = (block / scale).to(torch.float8_e4m3fn).float() * scale
    return out


def int8_per_channel(w):
    """A round trip through symmetric int8 with one scale per row."""
    scale = w.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / 127
    return (w / scale).round().clamp(-127, 127) * scale


def int4_groups(w, group=32):
    """A round trip through asymmetric int4 in groups of `group` along the rows."""
    flat, size = padded_groups(w, group)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    scale = ((high - low) / 15).clamp_min(1e-12)
    return (((flat - low) / scale).round().clamp(0, 15) * scale + low).flatten()[:size].view(w.shape)


NF4 = torch.tensor(
    [-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0,
     0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0]
)  # fmt: skip


def nf4(w, group=64):
    """A round trip through the 4-bit normal-float grid in groups of `group`."""
    flat, size = padded_groups(w, group)
    scale = flat.abs().amax(1, keepdim=True).clamp_min(1e-12)
    codes = torch.bucketize(flat / scale, (NF4[1:] + NF4[:-1]) / 2)
    return (NF4[codes] * scale).flatten()[:size].view(w.shape)


def padded_groups(w, group):
    flat = w.flatten()
    missing = -flat.numel() % group
    return torch.cat([flat, flat.new_zeros(missing)]).view(-1, group), flat.numel()


def prune_magnitude(w, share):
    """The smallest `share` of entries set to zero."""
    drop = int(share * w.numel())
    threshold = w.abs().flatten().kthvalue(max(drop, 1)).values
    return torch.where(w.abs() <= threshold, torch.zeros_like(w), w)


def drop_top_component(w):
    """W without its largest singular component."""
    u, s, v = torch.linalg.svd(w, full_matrices=False)
    return w - s[0] * torch.outer(u[:, 0], v[0])


def truncate_rank(w, share):
    """W with only the largest `share` of its singular components (rank reduction)."""
    u, s, v = torch.linalg.svd(w, full_matrices=False)
    keep = max(1, int(share * len(s)))
    return (u[:, :keep] * s[:keep]) @ v[:keep]


def damp_top_components(w, count, factor):
    """W with its largest `count` singular values multiplied by `factor`."""
    u, s, v = torch.linalg.svd(w, full_matrices=False)
    return w + ((factor - 1) * u[:, :count] * s[:count]) @ v[:count]


def signs_only(base, tuned):
    """The base plus one-bit changes: each difference's sign times its tensor's mean size."""
    out = base.copy()
    for name, tensor in base.tensors.items():
        change = tuned.tensors[name].float() - tensor.float()
        out.tensors[name] = (tensor.float() + change.sign() * change.abs().mean()).to(tensor.dtype)
    return out

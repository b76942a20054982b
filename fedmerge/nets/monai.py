"""Three nets of MONAI, with affine instance norms and without in-place activations.

MONAI's instance norm has no affine parameters unless asked for them, and its activations work in place, which
breaks hooks that look at a single case's gradient. Weights, like everywhere here, are named by
`named_parameters()`: DynUNet's `state_dict()` lists some tensors several times.
"""

from fedmerge.errors import ConfigError
from fedmerge.nets.defined import Definition, building

NORM = ("INSTANCE", {"affine": True})
LEAKY = ("LEAKYRELU", {"negative_slope": 0.01, "inplace": False})


@building
def unet(
    in_channels: int,
    out_channels: int,
    *,
    dims: int = 3,
    base_filters: int = 16,
    depth: int = 4,
    residual_units: int = 2,
    dropout: float = 0.0,
) -> Definition:
    """MONAI's UNet: residual units, strided and transposed convs (Kerfoot et al. 2018).

    Its last transposed conv and norm already have the output's channels, so they count as heads.

    Raises:
        ConfigError: a setting is impossible.
    """
    _check("unet", dims, base_filters, depth, dropout)
    return {
        "_target_": "UNet",
        "spatial_dims": dims,
        "in_channels": in_channels,
        "out_channels": out_channels,
        "channels": [base_filters * 2**level for level in range(depth)],
        "strides": [2] * (depth - 1),
        "num_res_units": residual_units,
        "act": LEAKY,
        "norm": NORM,
        "dropout": dropout,
    }


@building
def segresnet(
    in_channels: int,
    out_channels: int,
    *,
    dims: int = 3,
    base_filters: int = 8,
    depth: int = 4,
    dropout: float = 0.0,
) -> Definition:
    """MONAI's SegResNet (Myronenko 2018, without the autoencoder), with instance in place of group norm.

    Raises:
        ConfigError: a setting is impossible.
    """
    _check("segresnet", dims, base_filters, depth, dropout)
    return {
        "_target_": "SegResNet",
        "spatial_dims": dims,
        "init_filters": base_filters,
        "in_channels": in_channels,
        "out_channels": out_channels,
        "dropout_prob": dropout or None,
        "act": LEAKY,
        "norm": NORM,
        "blocks_down": (1, *[2] * (depth - 2), 4),
        "blocks_up": (1,) * (depth - 1),
    }


@building
def dynunet(
    in_channels: int,
    out_channels: int,
    *,
    dims: int = 3,
    base_filters: int = 16,
    depth: int = 4,
    residual: bool = False,
    dropout: float = 0.0,
    coarse_heads: int = 0,
) -> Definition:
    """MONAI's DynUNet, the net of nnU-Net (Isensee et al. 2021), with heads at so many coarser levels.

    nnU-Net has them at all levels but the two coarsest: depth - 3.

    Raises:
        ConfigError: a setting is impossible.
    """
    _check("dynunet", dims, base_filters, depth, dropout)
    if not 0 <= coarse_heads <= depth - 2:
        raise ConfigError(f"net dynunet: coarse_heads of depth {depth} expected 0 to {depth - 2}, got {coarse_heads}")
    return {
        "_target_": "DynUNet",
        "spatial_dims": dims,
        "in_channels": in_channels,
        "out_channels": out_channels,
        "kernel_size": [3] * depth,
        "strides": [1] + [2] * (depth - 1),
        "upsample_kernel_size": [2] * (depth - 1),
        "filters": [base_filters * 2**level for level in range(depth)],
        "dropout": dropout or None,
        "norm_name": NORM,
        "act_name": LEAKY,
        "deep_supervision": coarse_heads > 0,
        "res_block": residual,
        **({"deep_supr_num": coarse_heads} if coarse_heads else {}),
    }


def _check(name: str, dims: int, base_filters: int, depth: int, dropout: float) -> None:
    if dims not in (2, 3):
        raise ConfigError(f"net {name}: dims expected 2 or 3, got {dims}")
    if not 3 <= depth <= 6:
        raise ConfigError(f"net {name}: depth expected 3 to 6, got {depth}")
    if base_filters < 1:
        raise ConfigError(f"net {name}: base_filters expected at least 1, got {base_filters}")
    if not 0 <= dropout < 1:
        raise ConfigError(f"net {name}: dropout expected in [0, 1), got {dropout}")

"""Losses on probability maps: prediction (N, K, H, W) and truth (N, 1, H, W), float32 in 0..1; a scalar out.

K maps against one truth are graded at once, and the result is the mean over pictures and maps.
All are computed in float32, outside autocast: half has neither the range for sums over a picture nor the digits
for SSIM's variances.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "MapsLoss",
    "bce_loss",
    "cel_loss",
    "csepnet_loss",
    "edge_bce_loss",
    "edge_truth",
    "f_measure_loss",
    "iou_loss",
    "minet_loss",
    "saliency_iou_loss",
    "ssim_loss",
    "tsernet_lite_loss",
    "tsernet_loss",
]

MapsLoss = Callable[[dict[str, Tensor], Tensor], Tensor]

_SSIM_C1 = 0.01**2
_SSIM_C2 = 0.03**2


def ssim_loss(prediction: Tensor, truth: Tensor) -> Tensor:
    """1 - mean SSIM, in 0..2, with an 11x11 Gaussian window of sigma 1.5, zero-padded.

    Source: Wang et al., Image quality assessment: from error visibility to structural similarity, IEEE TIP 2004,
    equation (13), with L = 1.
    """
    # A blur for each of them: on a CPU, joining them to one costs as much as the blur.
    prediction = prediction.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        mean_t, mean_tt = _gaussian_blur(truth), _gaussian_blur(truth * truth)
    mean_p = _gaussian_blur(prediction)
    cross, square_p, square_t = mean_p * mean_t, mean_p * mean_p, mean_t * mean_t
    covariance = _gaussian_blur(prediction * truth) - cross
    variances = _gaussian_blur(prediction * prediction) - square_p + mean_tt - square_t
    above = (2 * cross + _SSIM_C1) * (2 * covariance + _SSIM_C2)
    below = (square_p + square_t + _SSIM_C1) * (variances + _SSIM_C2)
    return 1 - (above / below).mean()


def iou_loss(prediction: Tensor, truth: Tensor) -> Tensor:
    """1 - soft intersection over union per map, then the mean; in 0..1.

    Source: Qin et al., BASNet, CVPR 2019, equation (5). A tiny constant makes two empty maps agree.
    """
    both = (prediction * truth).sum(dim=(2, 3))
    either = (prediction + truth).sum(dim=(2, 3)) - both
    return (1 - (both + 1e-6) / (either + 1e-6)).mean()


def f_measure_loss(prediction: Tensor, truth: Tensor, beta2: float = 0.3) -> Tensor:
    """1 - soft F-measure per map, then the mean; in 0..1.

    F = (1 + beta2) * precision * recall / (beta2 * precision + recall), written over sums so that it is
    finite on empty maps: (1 + beta2) * TP / (beta2 * sum(truth) + sum(prediction)).
    Source: Zhao et al., Optimizing the F-measure for threshold-free salient object detection, ICCV 2019.
    """
    hit = (prediction * truth).sum(dim=(2, 3))
    total = beta2 * truth.sum(dim=(2, 3)) + prediction.sum(dim=(2, 3))
    return (1 - ((1 + beta2) * hit + 1e-6) / (total + 1e-6)).mean()


def cel_loss(prediction: Tensor, truth: Tensor) -> Tensor:
    """Consistency-enhanced loss: the share of what is marked, in map and truth together, that only one marks.

    CEL = (sum(p - p g) + sum(g - p g)) / (sum(p) + sum(g) + 1e-6) with sums over the whole batch, one ratio a map,
    then the mean over maps; in 0..1. Pictures without a defect thus count by what is wrongly marked in them.
    Source: Pang et al., Multi-scale interactive network for salient object detection, CVPR 2020.
    """
    both = (prediction * truth).sum(dim=(0, 2, 3))
    total = (prediction + truth).sum(dim=(0, 2, 3))
    return ((total - 2 * both) / (total + 1e-6)).mean()


def saliency_iou_loss(maps: dict[str, Tensor], truth: Tensor) -> Tensor:
    """`iou_loss` summed over all maps but `edge`, each at its own size against the truth's area means."""
    total = truth.new_zeros(())
    for name, saliency in maps.items():
        if name != "edge":
            total = total + iou_loss(saliency, _truth_at(truth, saliency))
    return total


def edge_truth(mask: Tensor) -> Tensor:
    """The mask's boundary: its 3x3 morphological gradient, dilation minus erosion; (N, 1, H, W) in 0..1."""
    dilated = F.max_pool2d(mask, 3, stride=1, padding=1)
    eroded = -F.max_pool2d(-mask, 3, stride=1, padding=1)
    return dilated - eroded


def edge_bce_loss(prediction: Tensor, edge: Tensor) -> Tensor:
    """BCE whose positives weigh n_neg / n and negatives 1.1 * n_pos / n, over the batch.

    Edges are a few pixels in a hundred; the weights let both sides count alike.
    Source: TSERNet (IEEE TIM 2022), edge supervision.
    """
    positive = (edge > 0.5).float()
    n_positive = positive.sum()
    n = positive.numel()
    weight = torch.where(positive > 0, (n - n_positive) / n, 1.1 * n_positive / n)
    return F.binary_cross_entropy(prediction, positive, weight=weight)


def bce_loss(prediction: Tensor, truth: Tensor) -> Tensor:
    """Binary cross entropy, mean over pixels; 0 and up (PyTorch bounds each logarithm at -100)."""
    return F.binary_cross_entropy(prediction, truth.expand_as(prediction))


def csepnet_loss(maps: dict[str, Tensor], truth: Tensor) -> Tensor:
    """BCE + IoU + CEL + SSIM, summed over s1..s5. Source: CSEPNet (Measurement 2022)."""
    p = torch.cat(list(maps.values()), dim=1)
    return len(maps) * (bce_loss(p, truth) + iou_loss(p, truth) + cel_loss(p, truth) + ssim_loss(p, truth))


def minet_loss(maps: dict[str, Tensor], truth: Tensor) -> Tensor:
    """BCE + SSIM, summed over s1..s5. Source: MINet (IEEE TII 2024)."""
    p = torch.cat(list(maps.values()), dim=1)
    return len(maps) * (bce_loss(p, truth) + ssim_loss(p, truth))


def tsernet_loss(maps: dict[str, Tensor], truth: Tensor) -> Tensor:
    """BCE + SSIM + IoU + F-measure summed over the twelve saliency maps, plus balanced BCE on `edge`.

    Source: TSERNet (IEEE TIM 2022), hybrid loss.
    """
    p = torch.cat([probability for name, probability in maps.items() if name != "edge"], dim=1)
    saliency = bce_loss(p, truth) + ssim_loss(p, truth) + iou_loss(p, truth) + f_measure_loss(p, truth)
    return p.shape[1] * saliency + edge_bce_loss(maps["edge"], edge_truth(truth))


def tsernet_lite_loss(maps: dict[str, Tensor], truth: Tensor) -> Tensor:
    """BCE + SSIM + IoU on `final` and `sal1`, half of BCE + IoU on the side maps, half of balanced BCE on `edge`.

    Side maps and edge are graded at their own size, against the truth's area means and its widened boundary: that
    costs a sixteenth and less of grading them enlarged.
    """
    p = torch.cat([maps["final"], maps["sal1"]], dim=1)
    total = 2 * (bce_loss(p, truth) + ssim_loss(p, truth) + iou_loss(p, truth))
    for name, side in maps.items():
        if name == "edge":
            edge = F.adaptive_max_pool2d(edge_truth(truth), side.shape[-2:])
            total = total + 0.5 * edge_bce_loss(side, edge)
        elif name not in ("final", "sal1"):
            small = _truth_at(truth, side)
            total = total + 0.5 * (bce_loss(side, small) + iou_loss(side, small))
    return total


def _truth_at(truth: Tensor, like: Tensor) -> Tensor:
    """The truth's area means at the size of `like`."""
    same = truth.shape[-2:] == like.shape[-2:]
    return truth if same else F.interpolate(truth, size=like.shape[-2:], mode="area")


def _gaussian_blur(x: Tensor, size: int = 11, sigma: float = 1.5) -> Tensor:
    """Separable, so 22 multiplications a pixel instead of 121; zero padding keeps the size.

    A convolution of each channel alone is several times as fast on a CPU, its gradient above all, where channels lie
    last in memory.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    offset = torch.arange(size, dtype=x.dtype, device=x.device) - size // 2
    window = torch.exp(-(offset**2) / (2 * sigma**2))
    window = (window / window.sum()).expand(x.shape[1], 1, 1, size)
    x = F.conv2d(x, window, padding=(0, size // 2), groups=x.shape[1])
    return F.conv2d(x, window.transpose(2, 3), padding=(size // 2, 0), groups=x.shape[1])

"""Does the default recipe gain over the probe, and over plainer ways to unfreeze? CIFAR-10, 5,000 train images.

    python -m tests.benchmarks.recipe --data <folder of CIFAR-10 as train/<class>/ and test/<class>/> --image-size 96

Every way starts from efficientnet_lite0 and is measured on the 10,000 test images; the seeds draw other train images,
other batches, other augmentations. Time is that of `finetune`, the probe and the scoring of val included.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ptlib import build_model, evaluate, finetune, load_checkpoint, load_task, predict, recipe

WAYS = ("probe", "lp-ft", "one rate", "naive")


def main(folder: str, image_size: int, seeds: int, ways: Sequence[str]) -> None:
    checkpoint = load_checkpoint("efficientnet_lite0")
    found: dict[str, list[tuple[float, float, float]]] = {way: [] for way in ways}
    for seed in range(seeds):
        task = load_task(folder, n_train=5000, seed=seed)
        for way in ways:
            stages = recipe("lp-ft" if way == "one rate" else way, epochs=3)
            if way == "one rate":  # the probe, then all layers at one rate, one cycle, as a first attempt would
                stages[1] = replace(stages[1], batch_size=64, layer_decay=1.0, schedule="one-cycle", warmup=0.3)
            model = build_model(checkpoint, task, image_size, seed)
            start = time.perf_counter()
            history = finetune(model, task, stages, seed=seed, log=lambda line: print("   ", line, flush=True))
            seconds = time.perf_counter() - start
            report = evaluate(predict(model, task.test, task), history.selected_on)
            worst = min(row["val_accuracy"] for row in history.rows)
            found[way].append((report["accuracy"].value, seconds, worst))
            print(f"seed {seed}, {way}: test accuracy {report['accuracy']}, {seconds:.0f} s", flush=True)
    print(f"\n{image_size} px, {seeds} seeds          test accuracy           worst epoch on val    seconds")
    for way, rows in found.items():
        accuracy, seconds_, worst_ = np.array(rows).T
        spread = f"{accuracy.mean():.4f} ({accuracy.min():.4f} to {accuracy.max():.4f})"
        print(f"{way:18s}    {spread}    {worst_.min():.3f}    {np.median(seconds_):.0f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    args = parser.parse_args()
    main(args.data, args.image_size, args.seeds, args.ways)

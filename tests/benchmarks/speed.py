"""How near is `finetune` to the limit? 2,000 images, 64 pixels, EfficientNet-Lite0.

    python -m tests.benchmarks.speed --data <folder of images, as load_task takes it>

The limit is the bare loop over tensors in memory, already resized and normalised: forward, backward, step. Ours starts
from uint8, augments, resizes and normalises each batch, and draws its order. The two take turns in one process; what
counts is the ratio of their medians. Run it alone: a second busy process makes both meaningless.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch.nn import functional as F

from ptlib import Model, Stage, Task, build_model, finetune, load_checkpoint, load_task
from ptlib.runtime import choose_device, place

UNFROZEN = Stage("all", epochs=2, batch_size=64)
HEAD = Stage("head", ("head",), epochs=10, batch_size=64, augment=())


def bare_training(model: Model, task: Task) -> float:
    """Seconds of two epochs of the bare loop."""
    model.eval()  # BatchNorm keeps its statistics, as in ours
    x, y = model.preprocess(task.train.inputs), task.train.targets
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    start = time.perf_counter()
    for _ in range(UNFROZEN.epochs):
        for rows in torch.arange(len(x)).split(UNFROZEN.batch_size):
            F.cross_entropy(model(x[rows[0] : rows[-1] + 1]), y[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
    return time.perf_counter() - start


def bare_forward(model: Model, task: Task) -> float:
    """Seconds of one forward pass of the backbone over train and val."""
    x = torch.cat([model.preprocess(split.inputs) for split in (task.train, task.val)])
    start = time.perf_counter()
    with torch.inference_mode():
        for part in x.split(128):
            model.eval().backbone(part)
    return time.perf_counter() - start


def main(data: str, image_size: int, repeats: int) -> None:
    checkpoint = load_checkpoint("efficientnet_lite0")
    task = load_task(data, n_train=2000, n_val=500)
    device = choose_device("cpu")

    def fresh() -> Model:
        model = build_model(checkpoint, task, image_size)
        place(model, device)
        return model

    def ours(stage: Stage) -> tuple[float, float]:
        model = fresh()
        start = time.perf_counter()
        history = finetune(model, task, [stage], device="cpu", precision="fp32", log=lambda line: None)
        return history.seconds.get("train", 0.0), time.perf_counter() - start

    times: dict[str, list[float]] = {"bare loop": [], "ours": [], "ours, scoring val too": []}
    times |= {"bare forward pass": [], "ours, ten head epochs": []}
    bare_forward(fresh(), task)  # warm
    for _ in range(repeats):
        times["bare loop"].append(bare_training(fresh(), task))
        train, whole = ours(UNFROZEN)
        times["ours"].append(train)
        times["ours, scoring val too"].append(whole)
        times["bare forward pass"].append(bare_forward(fresh(), task))
        times["ours, ten head epochs"].append(ours(HEAD)[1])
    print(f"{len(task.train)} images at {image_size} px, fp32, {torch.get_num_threads()} threads, {repeats} repeats")
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    for name, seconds in times.items():
        print(f"{name:24s} {medians[name]:6.2f} s   ({min(seconds):.2f} to {max(seconds):.2f})")
    print(f"two epochs unfrozen, as a share of the limit's speed: {medians['bare loop'] / medians['ours']:.2f}")
    ratio = medians["ours, ten head epochs"] / medians["bare forward pass"]
    print(f"ten head epochs, as a multiple of one forward pass:   {ratio:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    main(args.data, args.image_size, args.repeats)

"""Figure 6.10 of Goodfellow, Bengio, Courville, "Deep Learning" (MIT Press, 2016), section 6.5.5.

z = f(f(f(w))): `grad` appends to the graph of z the nodes that compute dz/dw, and computes no number.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import graphir as gi


def chain(f: Callable[[gi.Expr], gi.Expr] = gi.tanh) -> gi.Graph:
    """The left half of the figure: w -> x -> y -> z."""
    w = gi.input("w")
    x = f(w)
    y = f(x)
    return gi.Graph({"z": f(y)})


def main(picture: Path) -> None:
    """Print the graph and its derivative, and draw the latter."""
    left = chain(gi.sin)
    right = gi.append_gradients(left, "z")
    for title, graph in (("z = f(f(f(w)))", left), ("with dz/dw", right)):
        print(f"{title}: {len(graph)} nodes")
        print(graph.to_text())
    picture.write_text(right.to_svg(), encoding="utf-8")
    print("drawn in", picture)
    print("dz/dw at w = 0.5:", gi.evaluate(right, {"w": 0.5})["d_z_d_w"])


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "figure_6_10.svg"))

"""Figure 6.10 of Goodfellow, Bengio, Courville, "Deep Learning" (MIT Press, 2016), section 6.5.5.

z = f(f(f(w))): `grad` appends to the graph of z the nodes that compute dz/dw, and computes no number.
"""

from collections.abc import Callable
from pathlib import Path

import graphir as gi


def chain(f: Callable[[gi.Expr], gi.Expr] = gi.tanh) -> gi.Graph:
    """The left half of the figure: w -> x -> y -> z."""
    w = gi.input("w")
    x = f(w)
    y = f(x)
    return gi.Graph({"z": f(y)})


def main() -> None:
    """Print the graph and its derivative, and draw the latter."""
    left = chain()
    right = gi.append_gradients(left, "z")
    for title, graph in (("z = f(f(f(w)))", left), ("with dz/dw", right)):
        print(f"{title}: {len(graph)} nodes")
        for node in graph.nodes:
            print("  ", node)
    to_svg = getattr(right, "to_svg", None)
    if to_svg is not None:
        Path("figure_6_10.svg").write_text(to_svg(), encoding="utf-8")
        print("drawn in figure_6_10.svg")
    print("dz/dw at w = 0.5:", gi.evaluate(right, {"w": 0.5})["d_z_d_w"])


if __name__ == "__main__":
    main()

"""numpy's functions by numpy's names and signatures, where the standard's differ: `np.vstack([x, y])`, `np.dot(x, w)`.

They are reached by calling numpy's own function on an expression, and some as its methods; each is composed from
functions of graphir, so derivatives, batches and cuts come by themselves. What needs a number from a shape needs that
axis to be known.
"""

from graphir.numpy_api import layout as layout
from graphir.numpy_api import numbers as numbers
from graphir.numpy_api import products as products

"""canvas: one web page in which a person draws a digit and two students read it, in the browser, under perturbation.

The page opens from a file and asks the network for nothing: onnxruntime-web, fetched once by npm, stands in it.
"""

from ardor.canvas.npm import Runtime as Runtime
from ardor.canvas.npm import fetch as fetch
from ardor.canvas.npm import unpack as unpack
from ardor.canvas.page import Student as Student
from ardor.canvas.page import student_of as student_of
from ardor.canvas.page import write as write

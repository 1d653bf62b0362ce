"""One web page to draw a digit on: two students classify it in the browser, with and without perturbation.

The page opens from a file and needs no network: onnxruntime-web, fetched once by npm, is embedded in it.
"""

from ardor.demo.page.npm import Runtime, fetch, unpack
from ardor.demo.page.page import Student, student_of, write

__all__ = ["Runtime", "Student", "fetch", "student_of", "unpack", "write"]

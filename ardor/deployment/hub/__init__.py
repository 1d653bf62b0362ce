"""A run as a folder that the Hugging Face Hub understands, and the upload of it.

    release = hub.release_of("runs/rslad")                   # the net, its reports and the ONNX files of its weights
    hub.write_folder(release, "rslad", repository="me/rslad")       # model.safetensors, config.json, README.md, *.onnx
    hub.push("rslad", "me/rslad")                            # "hf:me/rslad@COMMIT"
    models.load("hf:me/rslad")                               # or, before it is pushed, models.load("hf:./rslad")

`ardor.models.hub` reads what is written here.
"""

from ardor.deployment.hub.release import Release, release_of
from ardor.deployment.hub.upload import push
from ardor.deployment.hub.write import Written, write_folder

__all__ = ["Release", "Written", "push", "release_of", "write_folder"]

"""A run as a folder in the format of the Hugging Face Hub, and its upload.

    release = hub.release_of("runs/rslad")                   # the net, its reports and the ONNX files of its weights
    hub.write_folder(release, "rslad", repository="me/rslad")       # model.safetensors, config.json, README.md, *.onnx
    hub.push("rslad", "me/rslad")                            # "hf:me/rslad@COMMIT"
    models.load("hf:me/rslad")                               # or, before it is pushed, models.load("hf:./rslad")

`ardor.models.hub` reads these folders.
"""

from ardor.deployment.hub.release import Release, release_of
from ardor.deployment.hub.upload import push, require_repository
from ardor.deployment.hub.write import Written, write_folder

__all__ = ["Release", "Written", "push", "release_of", "require_repository", "write_folder"]

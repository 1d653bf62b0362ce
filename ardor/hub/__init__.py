"""hub: a run to a folder that the Hugging Face Hub understands, and the folder to the Hub.

    release = hub.release_of("runs/rslad")                   # the net, its reports and the ONNX files of its weights
    hub.write(release, "rslad", repository="me/rslad")       # model.safetensors, config.json, README.md, *.onnx
    hub.push("rslad", "me/rslad")                            # "hf:me/rslad@COMMIT"
    models.load("hf:me/rslad")                               # or, before it is pushed, models.load("hf:./rslad")

`ardor.models.hub` reads what is written here.
"""

from ardor.hub.release import Release as Release
from ardor.hub.release import release_of as release_of
from ardor.hub.upload import push as push
from ardor.hub.written import Written as Written
from ardor.hub.written import write as write

"""Score texts over gRPC with Triton's client: `pip install 'tritonclient[grpc]'`, then run this with host:port.

The model is VERBATIM_MODEL, and the key VERBATIM_KEY where the service asks for one.
"""

import os
import sys

import numpy as np
import tritonclient.grpc as triton


def main(address: str) -> None:
    """Print a line for each text: its label, the probabilities of all labels, itself."""
    model, key = os.environ.get("VERBATIM_MODEL", "starter"), os.environ.get("VERBATIM_KEY")
    texts = np.array(["Great phone, fast delivery!", "电池很差"], dtype=object)
    tensor = triton.InferInput("text", texts.shape, "BYTES")
    tensor.set_data_from_numpy(texts)
    wanted = [triton.InferRequestedOutput(name) for name in ("sentiment", "sentiment.prob")]
    headers = {"authorization": f"Bearer {key}"} if key else {}
    answer = triton.InferenceServerClient(address).infer(model, [tensor], outputs=wanted, headers=headers)
    for text, label, probs in zip(texts, answer.as_numpy("sentiment"), answer.as_numpy("sentiment.prob"), strict=True):
        sys.stdout.write(f"{label.decode()} {probs.round(3).tolist()} {text}\n")


if __name__ == "__main__":
    main(sys.argv[1] if sys.argv[1:] else "127.0.0.1:8001")

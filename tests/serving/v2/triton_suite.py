"""What Triton's own clients find, run in their environment: `python triton_suite.py HTTP GRPC KEY`, texts on stdin.

Prints one JSON object: for each client, what it was told and answered, and the status and words of each refusal. The
test that runs this (`test_v2_clients.py`) knows what is right.
"""

import json
import sys
import threading

import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException


class Suite:
    """The same calls over either client."""

    def __init__(self, triton, address, key):
        self.triton = triton
        self.client = triton.InferenceServerClient(address, **({"concurrency": 8} if self.is_http else {}))
        self._key = key

    @property
    def headers(self):
        """New ones for each call: the HTTP client writes its own into what it is given."""
        return {"authorization": f"Bearer {self._key}"}

    @property
    def is_http(self):
        return self.triton is tritonclient.http

    def tensor(self, array, datatype="BYTES", name="text", **binary):
        made = self.triton.InferInput(name, array.shape, datatype)
        made.set_data_from_numpy(array, **binary)
        return made

    def texts(self, *texts, **binary):
        return self.tensor(np.array([text.encode() for text in texts], dtype=object), **binary)

    def infer(self, tensor, model="tiny", **more):
        return self.client.infer(model, [tensor], headers=self.headers, **more)

    def refused(self, call):
        try:
            call()
        except InferenceServerException as error:
            return [error.status(), error.message()]
        return None

    def told(self):
        as_json = {} if self.is_http else {"as_json": True}
        metadata = self.client.get_model_metadata("tiny", headers=self.headers, **as_json)
        config = self.client.get_model_config("tiny", headers=self.headers, **as_json)
        server = self.client.get_server_metadata(headers=self.headers, **as_json)
        listed = self.client.get_model_repository_index(headers=self.headers, **as_json)
        return {
            "live": self.client.is_server_live(),
            "ready": self.client.is_server_ready(),
            "model_ready": self.client.is_model_ready("tiny", headers=self.headers),
            "version_ready": self.client.is_model_ready("tiny", "1", headers=self.headers),
            "server": server["name"],
            "inputs": [[one["name"], one["datatype"]] for one in metadata["inputs"]],
            "outputs": [[one["name"], one["datatype"]] for one in metadata["outputs"]],
            "config": config.get("config", config)["name"],
            "index": [one["name"] for one in listed.get("models", [])] if not self.is_http else [listed[0]["name"]],
        }

    def answers(self, texts):
        answer = self.infer(self.texts(*texts), request_id="a7")
        described = answer.get_response()
        self_made = (
            described
            if self.is_http
            else {"id": described.id, "outputs": [{"name": one.name} for one in described.outputs]}
        )
        return {
            "id": self_made["id"],
            **{one["name"]: plain(answer.as_numpy(one["name"])) for one in self_made["outputs"]},
        }

    def in_json(self, texts):
        """JSON both ways; and the shape [N, 1]."""
        wanted = [self.triton.InferRequestedOutput("stars", binary_data=False)]
        column = np.array([[text.encode()] for text in texts], dtype=object)
        return plain(self.infer(self.tensor(column, binary_data=False), outputs=wanted).as_numpy("stars"))

    def packed(self, texts):
        """Compressed both ways, as far as the server wants."""
        ways = (
            {"request_compression_algorithm": "gzip", "response_compression_algorithm": "gzip"}
            if self.is_http
            else {"compression_algorithm": "gzip"}
        )
        return plain(self.infer(self.texts(*texts), **ways).as_numpy("stars"))

    def refusals(self):
        two = np.array([[b"a", b"b"]], dtype=object)
        wanted = [self.triton.InferRequestedOutput("none")]
        key = {"authorization": "Bearer vb_none"}
        one = self.texts("a")
        calls = {
            "unknown model": lambda: self.infer(one, "none"),
            "unknown version": lambda: self.infer(one, model_version="9"),
            "unknown output": lambda: self.infer(one, outputs=wanted),
            "unknown input": lambda: self.infer(self.tensor(np.array([b"a"], dtype=object), name="texts")),
            "wrong shape": lambda: self.infer(self.tensor(two)),
            "wrong type": lambda: self.infer(self.tensor(np.array([1.0], np.float32), "FP32")),
            "not UTF-8": lambda: self.infer(self.tensor(np.array([b"\xff"], dtype=object))),
            "no texts": lambda: self.infer(self.texts()),
            "empty text": lambda: self.infer(self.texts("a", "")),
            "giant text": lambda: self.infer(self.texts("x" * 40_000)),
            "giant body": lambda: self.infer(self.texts("x" * 400_000)),
            "too many texts": lambda: self.infer(self.texts(*["a"] * 1025)),
            "timeout": lambda: self.infer(self.texts(*["a"] * 1000), timeout=1),
            "no key": lambda: self.client.infer("tiny", [one]),
            "wrong key": lambda: self.client.infer("tiny", [one], headers=key),
            "statistics": lambda: self.client.get_inference_statistics("tiny", headers=self.headers),
            "unload": lambda: self.client.unload_model("tiny", headers=self.headers),
        }
        return {name: self.refused(call) for name, call in calls.items()}

    def overload(self):
        """Sixteen large requests at once, where two have room: the statuses."""
        sent, found = self.texts(*["Good phone " * 9] * 250), []

        def ask():
            client = Suite(self.triton, ADDRESSES[self.triton], KEY)
            found.append((client.refused(lambda: client.infer(sent)) or ["200", ""])[0])

        threads = [threading.Thread(target=ask) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sorted(found)


def streamed(suite, texts):
    """Ids and counts of a stream's answers, and its refusal in between."""
    found, done = [], threading.Semaphore(0)

    def take(result, error):
        found.append(str(error) if error else [result.get_response().id, len(result.as_numpy("stars"))])
        done.release()

    suite.client.start_stream(take, headers=suite.headers)
    suite.client.async_stream_infer("tiny", [suite.texts(*texts)], request_id="1")
    suite.client.async_stream_infer("none", [suite.texts(*texts)], request_id="2")
    suite.client.async_stream_infer("tiny", [suite.texts("a")], request_id="3")
    for _ in range(3):
        done.acquire(timeout=30)
    suite.client.stop_stream()
    return found


def plain(array):
    return [one.decode() for one in array] if array.dtype == object else array.tolist()


def main(texts):
    found = {}
    for name, triton in (("http", tritonclient.http), ("grpc", tritonclient.grpc)):
        suite = Suite(triton, ADDRESSES[triton], KEY)
        found[name] = {"told": suite.told(), "answers": suite.answers(texts), "packed": suite.packed(texts)}
        found[name] |= {"refusals": suite.refusals(), "overload": suite.overload()}
        found[name]["json"] = suite.in_json(texts) if suite.is_http else None
        found[name]["streamed"] = None if suite.is_http else streamed(suite, texts)
    return found


if __name__ == "__main__":
    ADDRESSES = {tritonclient.http: sys.argv[1], tritonclient.grpc: sys.argv[2]}
    KEY = sys.argv[3]
    sys.stdout.write(json.dumps(main(json.load(sys.stdin))))

"""The methods of `inference.GRPCInferenceService`: each a message in and a message out, without gRPC itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from serving.errors import RequestError
from serving.service import Caller, Service
from serving.v2 import models, rpc_messages
from serving.v2.http import message_of
from serving.v2.infer import infer
from serving.v2.protos import message


@dataclass(frozen=True)
class Method:
    """What a method reads, how it answers, and what is checked before it reads."""

    request: Any
    answer: Callable[[Caller, Any], Awaitable[Any]]
    is_open: bool = False  # asks for no key
    is_work: bool = False  # refused when the service is full
    is_stream: bool = False


def methods(service: Service) -> dict[str, Method]:
    """Everything that is served, by name."""

    async def live(_: Caller, __: Any) -> Any:
        return message("ServerLiveResponse")(live=True)

    async def ready(_: Caller, __: Any) -> Any:
        return message("ServerReadyResponse")(ready=await service.is_ready())

    async def metadata(_: Caller, __: Any) -> Any:
        return message("ServerMetadataResponse")(**models.server_metadata())

    async def model_ready(caller: Caller, sent: Any) -> Any:
        is_ready = await models.model_ready(service, caller, sent.name, sent.version)
        return message("ModelReadyResponse")(ready=is_ready)

    async def model_metadata(caller: Caller, sent: Any) -> Any:
        found = await models.model_metadata(service, caller, sent.name, sent.version)
        return message("ModelMetadataResponse")(**found)

    async def model_config(caller: Caller, sent: Any) -> Any:
        config = await models.model_config(service, caller, sent.name, sent.version)
        return message("ModelConfigResponse")(config=config)

    async def index(caller: Caller, sent: Any) -> Any:
        found = await models.index(service, caller, only_ready=sent.ready)
        return message("RepositoryIndexResponse")(models=found)

    async def model_infer(caller: Caller, sent: Any, *, may_wait: bool = False) -> Any:
        asked = rpc_messages.decode(sent)
        answer = await infer(service, caller, sent.model_name, sent.model_version, asked, may_wait=may_wait)
        return rpc_messages.encode(answer)

    async def stream_infer(caller: Caller, sent: Any) -> Any:
        """A refusal is an answer of the stream, which goes on; a stream waits for room."""
        response = message("ModelStreamInferResponse")
        try:
            return response(infer_response=await model_infer(caller, sent, may_wait=True))
        except RequestError as refused:
            service.metrics.refusal(refused.code)
            return response(error_message=message_of(refused), infer_response={"id": sent.id})

    return {
        "ServerLive": Method(message("ServerLiveRequest"), live, is_open=True),
        "ServerReady": Method(message("ServerReadyRequest"), ready, is_open=True),
        "ServerMetadata": Method(message("ServerMetadataRequest"), metadata),
        "ModelReady": Method(message("ModelReadyRequest"), model_ready),
        "ModelMetadata": Method(message("ModelMetadataRequest"), model_metadata),
        "ModelConfig": Method(message("ModelConfigRequest"), model_config),
        "RepositoryIndex": Method(message("RepositoryIndexRequest"), index),
        "ModelInfer": Method(message("ModelInferRequest"), model_infer, is_work=True),
        "ModelStreamInfer": Method(message("ModelInferRequest"), stream_infer, is_stream=True),
    }

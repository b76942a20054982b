"""The ClientApp: takes a message apart, has it answered, and packs the answer.

At a hospital the answer comes from the site's agent, which alone has data, keys and training code; what runs here is
no more than its messenger, and a process of its own for every message. A simulation has no agent, and answers here.
What goes wrong in a site is written to the site's own log; what leaves is a sentence that may leave.
"""

import logging
import os
from pathlib import Path

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from fedmerge import transport
from fedmerge.errors import Refused
from fedmerge.transport import Letter
from sites import client

log = logging.getLogger("fedmerge")
app = ClientApp()


def handle(message: Message, context: Context) -> Message:
    """The reply to a message: an answer, word that the agent is away, or an error with a sentence."""
    try:
        letter = transport.read(message.content, "server")
        answer = _ask(message.metadata.message_type, letter, context)
    except client.Away as error:
        answer = Letter({}, note={"away": str(error)})
    except (client.Failed, Refused) as error:
        return Message(Error(code=2, reason=str(error)), reply_to=message)
    except Exception:
        if "agent" not in context.node_config:  # a simulation: nobody is to be kept from the reason
            raise
        log.exception("a message could not be answered")
        return Message(Error(code=2, reason="its superexec.log has the reason"), reply_to=message)
    content = transport.pack(answer.task, answer.payload, head=answer.head, note=answer.note)
    return Message(content, reply_to=message)


def _ask(kind: str, letter: Letter, context: Context) -> Letter:
    if agent := context.node_config.get("agent"):
        return client.call(Path(str(agent)), kind, letter, bundle=os.environ.get("FEDMERGE_BUNDLE", ""))
    from sites import simulation  # with torch and the readers of images: not at a hospital's node

    return simulation.answer(kind, letter, context.run_config)


for _kind in transport.KINDS:
    _category, _action = _kind.split(".")
    getattr(app, _category)(_action)(handle)

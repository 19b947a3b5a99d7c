"""The local collector: a Klime endpoint to develop and test against, started by `klime-mp collector`.

It answers `POST /v1/batch` as Klime does, remembers what it accepted, and misbehaves on request. It keeps
everything in memory, for as long as it runs. Needs aiohttp (`pip install 'klime-mp[collector]'`).

Beside Klime's own route it has these; `writeKey` narrows them to one key:

    GET /events?writeKey=     {"events": [...], "count": n}: events exactly as sent, in order of arrival,
                              duplicates included. Filters: type, event, userId, groupId, messageId.
                              limit=5 shows the newest five; count is before that.
                              meta=1 adds "meta", a list as long, of receivedAt, key and request.
    DELETE /events?writeKey=  forgets events and counters
    GET /summary?writeKey=    requests, accepted, rejected, duplicates (arrivals beyond the first of a
                              messageId), duplicateMessageIds (at most 100)
    PUT, GET, DELETE /faults  the fault script, for all keys: what to do wrong, see `_faults.py`

The way of a request, one module a station:

    _serve.py    the process: bind, say where, stop on a signal
    _app.py      the routes
    _batch.py    the bytes of a body -> the events in it, each with the text it was sent as (pure)
    _checks.py   one event -> what breaks the rules of the wire, if anything (pure)
    _verdict.py  a key and a body -> Klime's answer, and the events it accepts (pure)
    _faults.py   the fault script: its format, and what a fault makes of an answer (pure)
    _deliver.py  an answer -> the socket, whole, late, in pieces or not at all
    _store.py    what was received, and the questions that can be asked about it (pure)
"""

"""The page of a campaign that runs, and the small server on loopback that brings it up to date.

    files      what grows or changes on a disk, read anew only where it has changed
    messages   the lines of logs
    curves     the lines of learning curves
    telling    what a campaign's files say, as the page shows it
    board      what the page shows, in pieces that know when they changed
    serving    the server: who may look, and what is answered
    page       the page itself, with its style and its script

What is shown of a run, of a server's home or of a hospital's home is read by `fedmerge.cli.watched_run`,
`watched_server` and `watched_site`; nothing here knows sites or server.
"""

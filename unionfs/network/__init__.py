"""Networks of containers: addresses, bridges, rules, ports and names, as the kernel is told of them.

This floor knows nothing of containers or of what is kept in the state: it is given addresses and names, and turns them
into commands of ip(8), text of nft(8), sockets, and answers. The container floor decides who gets what.
"""

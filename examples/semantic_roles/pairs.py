"""What is known of a pair of a predicate and a word, and the features made of it."""

from .sentences import ancestors

OF_CANDIDATE = (
    "side", "distance", "path", "words",  # path: relations up and down; words: forms upwards
    "above", "rank", "branch", "slot", "commas", "near",
)  # fmt: skip
CANDIDATE_FEATURES = """
w  x  r  path  words  sense  lemma  marker  branch+r  slot  first  last  frame
w+r  w+side  lemma+r+side  sense+r+side  sense+r+voice  lemma+r+marker  sense+path  lemma+path
sense+w  lemma+w  sense+marker  sense+marker+r  lemma+x+path  r+voice+side  path+voice  path+x
px+path  x+side+distance  r+distance+side  r+rank+side  path+rank  branch+path+w
lemma+frame+r+side  slot+voice  sense+slot  marker+r  marker+w  w+px  r+pr  path+pr
left+r  right+r  leftx+x+rightx  first+r  last+r  firstx+x+r  up+r  r+subject+path
sense+r+subject+path  below+path  suffix+r  commas+path  near+r  u+path+marker  words+w
lemma+words  pw+r+marker  px+r+side+voice  pr+r+x+side  sense+suffix+r  marker+suffix+r
lemma+above+branch
""".split()


def candidate_strings(sentence, tree, predicate, candidates):
    """Return a row of strings for each candidate, in the order of `OF_CANDIDATE`."""
    token, relations = predicate.token, sentence.relations
    _, up, words = steps_up(sentence, token)
    frame = [c.token for c in candidates if c.above == 0 and relations[c.token] != "punct"]
    seen, rows = {}, {}
    for candidate in sorted(candidates, key=lambda c: abs(c.token - token)):
        place, above = candidate.token, candidate.above
        relation, side = relations[place], "L" if place < token else "R"
        down = "" if candidate.branch >= 0 else relation
        rank = seen[relation, side] = seen.get((relation, side), 0) + 1
        between = sentence.tokens[min(place, token) + 1 : max(place, token)]
        is_near = tree.first[place] == token + 1 or tree.last[place] == token - 1
        marked = (f"[{relations[t]}]" if t == place else relations[t] for t in frame)
        rows[candidate] = (
            side, str(min(abs(place - token), 9)), up[above] + down, words[above] + down,
            str(min(above, 5)), str(min(rank, 4)),
            relations[candidate.branch] if candidate.branch >= 0 else "",
            str(above) if above else " ".join(marked), str(min(between.count(","), 2)),
            "near" if is_near else "apart",
        )  # fmt: skip
    return [rows[candidate] for candidate in candidates]


OF_TOKEN = (
    "place", "side", "tags", "verbs", "commas", "left2", "right2", "left2x", "right2x", "passive",
    "treepath", "treewords", "opens", "closes",
)  # fmt: skip
TOKEN_FEATURES = """
w  x  suffix  place  sense  left  right  left2  right2  tags  lemma+place  sense+side
w+side  x+side  lemma+w  sense+w  lemma+x+side  sense+x+side  lemma+tags  sense+tags  x+tags
px+tags  w+left  w+right  w+leftx  x+left  x+right  x+leftx+rightx  left2x+leftx+x
x+rightx+right2x  left2+left+w  w+right+right2  left+right  x+place  x+verbs+side  x+commas+side
verbs+commas+side  sense+leftx+x+side  sense+x+rightx+side  sense+left+side  sense+w+side
suffix+side  passive+x+side  passive+lemma+side  passive+tags  px+x+verbs+side  left+tags  w+tags
lemma+leftx+x+rightx  left2x+leftx+x+rightx+right2x  w+commas+verbs+side  w+px+place
""".split()
TREE_FEATURES = """
treepath  sense+treepath  lemma+treepath  treepath+x  treepath+w  treewords  treepath+voice
treepath+opens+closes  r  r+side  r+opens+closes  sense+r+opens  lemma+frame+treepath
treepath+left  treepath+marker+opens  r+pr+opens+closes  treewords+opens  treepath+first  up+r
""".split()
LONGEST_TAGS = 6
BE = frozenset("be is are was were been being 's 're 'm am get got".split())


def token_strings(sentence, tree, predicate):
    """Return a row of strings for each token, in the order of `OF_TOKEN`."""
    token, n_tokens = predicate.token, len(sentence.tokens)
    forms = ["<s>", "<s>", *(form.lower() for form in sentence.tokens), "</s>", "</s>"]
    tags = ["<s>", "<s>", *sentence.xpos, "</s>", "</s>"]
    is_passive = sentence.xpos[token] == "VBN" and not BE.isdisjoint(forms[token : token + 2])
    paths = tree_paths(sentence, tree, token)
    is_verb = [tag[:1] == "V" for tag in sentence.xpos]
    rows = []
    for place in range(n_tokens):
        low, high = min(place, token), max(place, token)
        side = "=" if place == token else "L" if place < token else "R"
        between = sentence.xpos[low + 1 : high]
        n_verbs = sum(is_verb[low + 1 : high])
        path, top, opens, closes = paths[place]
        rows.append((
            f"{side}{min(high - low, 12)}", side,
            side + (" ".join(between) if len(between) <= LONGEST_TAGS else "..."),
            str(min(n_verbs, 3)), str(min(sentence.tokens[low + 1 : high].count(","), 2)),
            forms[place], forms[place + 4], tags[place], tags[place + 4],
            "passive" if is_passive else "", path, top, opens, closes,
        ))  # fmt: skip
    return rows


def steps_up(sentence, token):
    """Return the nodes from a token to the root, and the relations and forms on the way."""
    nodes, up, words = [token, *ancestors(sentence.heads, token)], [""], [""]
    for below, node in zip(nodes, nodes[1:], strict=False):
        up.append(f"{up[-1]}{sentence.relations[below]}^")
        words.append(f"{words[-1]}{sentence.tokens[node].lower()}^")
    return nodes, up, words


def tree_paths(sentence, tree, token):
    """Return for each token the path to the candidate it is below, and its place there."""
    nodes, up, _ = steps_up(sentence, token)
    above = {node: steps for steps, node in enumerate(nodes)}
    top = {}
    for place in sorted(range(len(sentence.tokens)), key=lambda t: tree.depth[t]):
        head = sentence.heads[place]
        top[place] = place if head in above or place in above or head < 0 else top[head]
    paths = []
    for place in range(len(sentence.tokens)):
        node = top[place]
        head = sentence.heads[node]
        if node in above:
            path = up[above[node]]
        else:
            path = (up[above[head]] if head >= 0 else "-") + sentence.relations[node]
        paths.append((
            path, sentence.tokens[node].lower(),
            "first" if tree.first[node] == place else "",
            "last" if tree.last[node] == place else "",
        ))  # fmt: skip
    return paths

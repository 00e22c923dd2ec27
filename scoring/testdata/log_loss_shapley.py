# Writes log_loss_shapley.json: the Shapley values of a customer's log loss by
# their definition, over all coalitions and all draws, with 40 digits.
import itertools, json, math, random
from decimal import Decimal as D, getcontext

getcontext().prec = 40
rng = random.Random(5)
cases = []
for sizes, spread, intercept in (([3, 2, 4, 3, 3], 1, -0.7), ([2, 3, 2], 8, 2.5), ([2, 2, 3, 2], 150, -100)):
    share = []
    for n in sizes:  # in 64ths, so that they are exact
        cuts = sorted(rng.sample(range(1, 64), n - 1))
        share.append([(b - a) / 64 for a, b in zip([0] + cuts, cuts + [64])])
    odds = [[round(rng.gauss(0, spread) * 1024) / 1024 for _ in range(n)] for n in sizes]
    own = [rng.randrange(n) for n in sizes]
    d = len(sizes)
    for churned in (False, True):
        def loss(s):
            s = -s if churned else s
            return max(s, D(0)) + (1 + (-abs(s)).exp()).ln()
        def value(known):
            total = D(0)
            for draw in itertools.product(*[[own[j]] if j in known else range(sizes[j]) for j in range(d)]):
                p, s = D(1), D(intercept)
                for j, level in enumerate(draw):
                    s += D(odds[j][level])
                    if j not in known:
                        p *= D(share[j][level])
                total += p * loss(s)
            return total
        of = {known: value(known) for k in range(d + 1) for known in itertools.combinations(range(d), k)}
        shapley = []
        for j in range(d):
            others, phi = [i for i in range(d) if i != j], D(0)
            for k in range(d):
                weight = D(math.factorial(k) * math.factorial(d - k - 1)) / math.factorial(d)
                for known in itertools.combinations(others, k):
                    phi += weight * (of[tuple(sorted(known + (j,)))] - of[known])
            shapley.append(float(phi))
        cases.append(dict(intercept=intercept, frequency=share, log_odds=odds, own=own, churned=churned,
                          loss=float(of[tuple(range(d))]), expected=float(of[()]), shapley=shapley))
with open("log_loss_shapley.json", "w") as out:
    out.write("[\n" + ",\n".join(map(json.dumps, cases)) + "\n]\n")

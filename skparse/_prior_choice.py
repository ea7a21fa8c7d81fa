"""The choice of how much naive Bayes has to say in the end, by rows kept apart.

The linear epochs begin at naive-Bayes log-odds and let them fade. Short texts with noisy labels
want some of them back: there the linear classifiers learn words that were seen too seldom.
"""

LONGEST_TEXT = 64  # mean nonzeros per row up to which there is a choice
SHARES = 0.5, 1.0, 2.0  # of the start, added to what the epochs made of it
# Log-loss, in rows of typical weight, that a larger share has to gain: chance gains less.
WORTH = 6.0


def choose_prior_share(measure, typical_weight):
    """Find the share after which no larger one is worth it, 0 if none is.

    Parameters
    ----------
    measure : callable
        ``measure(share)`` is the loss on the rows kept apart with that share.
    typical_weight : float
        Sample weight of a row kept apart.

    Returns
    -------
    float
    """
    chosen, least = 0.0, measure(0.0)
    for share in SHARES:
        loss = measure(share)
        if not loss < least - WORTH * typical_weight:
            break
        chosen, least = share, loss
    return chosen

"""What stands out, in words, by the page of `docs/repro/` that shows the evidence."""

FINDINGS = {
    "gradient_error": """\
- GRPO's error is the oracle's plus (sσ² + ‖g‖²)/(G(G−1)) at each prompt, exactly. Every estimator's
  law is met by enumeration of all groups and by every measured point.
- "Vanilla above GRPO above oracle" is no law. It needs ‖W‖² uncorrelated with the reward
  (Assumption 2) and enough outputs. For a softmax policy that answers well, wrong answers have the
  larger scores, and a reward of 0 silences just those: on the arithmetic task vanilla has the
  smallest error of the three once the policy has some skill. On the random bandits the paper's
  order holds throughout.
- GRPO is close to the oracle from G = 8 on, but not indistinguishable at 32–64: its excess falls
  like 1/(G−1), and small error bars resolve it.
- The error falls with G always, with skill not: it is largest for the middling policy.
- Language models with an exact-match reward turn Figure 4 around: vanilla has the smallest error of
  the three at every G and skill that we tried, smaller than the oracle's. Wrong outputs have larger
  scores than the solution, by far once the policy has skill, and vanilla gives them no weight.
- On language models the error grows with skill, since the scores do.""",
    "baselines": """\
- A smaller gradient error is not a smaller gap. On the tabular bandits noise helps (a₂ < 0):
  vanilla has the largest error of the three and the smallest gap. It learns clearly slower than
  GRPO on the weak tug of war only.
- On half of the language models' questions or so GRPO never beats vanilla, however large the
  group; on nearly all that the policy solves more often than not, vanilla's error is smaller.""",
    "group_size": """\
- The best group size at a fixed budget is 1 + √(c₃/c₁), never below 1 + √2 since ‖g(x)‖² ≤ sσ²:
  G = 2 is never strictly better than G = 3.
- The gap after n iterations has a law of the same form, a₁/B + a₂/(BG) + a₃/(BG(G−1)) on top of the
  gap of exact ascent, with other weights than the gradient's error (`laws.path`). To this order the
  best G is the same at every budget. It is the same at every n only late in training, near an
  optimum; early on noise may help (a < 0), and on tabular bandits no inner G* need exist.
- The best G for the gap is that for the gradient's error at an optimum with one curved coordinate.
  Elsewhere they differ: the gap weighs noise by the Hessian.
- Rules for G that look at the problem (ours for the gap, 1 + √(c₃/c₁), the paper's) lose hardly
  anything on any task at the largest budget. Each rule that does not (G = 2, 8 to 32, N^⅓, √N)
  loses a large part of the gap on some task: see the table of the rules.""",
    "one_group_size": """\
- A small transformer trained at a fixed budget ends with the best accuracy near the group size that
  three numbers measured before training predict, at every budget and n, with SGD and with AdamW,
  and loses accuracy in the order of the predicted gradient errors. G* is about 3 here, far from the
  paper's 32, and moves little along training. If rewards are rare, G* grows like V^(−½).
- Five seeds do not tell the best group size from its neighbours, as the paper's do not; that the
  largest groups lose is plain.
- Finite prompt sets: epochs move the best G up, at every budget, to the largest that we tried: over
  an epoch the prompt noise cancels (`laws.epochs`). Distinct prompts within a minibatch change
  little unless B is near P; beyond it they force larger groups, G ≥ N/P.""",
    "convergence": """\
- E[A·WWᵀ] is the Hessian of J for softmax-linear policies: Corollary 10's assumption leaves
  Theorem 8 no curved direction there.""",
    "practice": """\
- Dividing by the group's standard deviation makes GRPO ascend E F_G(V) with F_G′ = φ_G: nothing is
  distorted by groups of 2 or of 3, and only in the limit is it E 2 arcsin √V. Runs of Algorithm 2
  end where E F_G − κ KL is largest, at each G, and not at the limit's maximiser.
- The KL penalty K3, differentiated as a loss, has the mean gradient of KL(π_ref ‖ π_θ), not of the
  proposition's KL(π_θ ‖ π_ref), which takes K2; K1 has none at all.
- Theorem 12's biases: exact constants, with (m−1)² in place of m² and a noise term; they do not
  grow as probabilities vanish. On the language models token ratios keep the bias below GRPO's own
  error at all rates that we tried; without ratios it exceeds that on the skilled policy.
  Estimating σ costs a term of order 1/G, which Σ₁ must hold for the bound to be true of three
  reward levels.""",
    "estimator_zoo": """\
- No estimator is best everywhere. Dynamic sampling is never noisier than GRPO on as many sampled
  outputs, ReMax always noisier than RLOO on our tasks; shrinking toward the batch pays in small
  groups. Whether std normalisation is less noisy than RLOO depends on policy and G.""",
    "critic": """\
- A value network of the policy's size is a small part of the memory here, and about a third of the
  time; GRPO saves more of both, because it scores no groups with equal rewards. The critic's RMSE
  is not what decides: wrong outputs have the longer scores, so one that says too little may beat
  even the oracle; with one output a prompt it learns faster than GRPO at the same N, if not by
  much.""",
    "episodes": """\
- Whole episodes obey the same laws as single outputs. On the slippery lake, where moments are
  exact, the group size that three numbers predict where training begins is among the best, at both
  budgets; smaller groups lose most. There GRPO with two outputs trains worse than vanilla, as it
  has the larger error. Vanilla and the oracle lack the term in 1/(G−1), and lose nothing in small
  groups.
- Where each step pays, as on CartPole, all values are far from 0, and the gradient without baseline
  has by far the largest error at every G.""",
    "planning": """\
- c₁, c₂, c₃ and G* can be measured on one batch of outputs, with intervals that cover, on bandits
  and on language models. Large G* are out of its reach: where gradients of prompts hardly differ,
  a batch of usual size gives a lower bound, and says so.
- Planning from a first batch beats a fixed 16 or 64 clearly, but on average over our tasks not a
  fixed 8, which happens to suit many of them. On language models, the arithmetic choice and the tug
  of war nearly all plans are among the sizes that may be best. Where the plan loses, on tabular
  bandits with large G*, the exact G of least gradient error loses as much: there the smallest
  gradient error is not the smallest gap, and no better estimate mends it. What is lost there is
  small in absolute terms.
- Where the interval of G* is wide, planning for its worst case loses about half of what trusting
  the point estimate does.""",
}

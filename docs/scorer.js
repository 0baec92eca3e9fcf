// Puts how-to pages first among the results of a search, each group in the order of Sphinx, whose values the others are.
var Scorer = {
  score: ([page, , , , score]) => score + (page.startsWith("how-to/") ? 100 : 0),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};

// Package check judges a history: [Check] gives a [Result], whose verdict is that
// what was promised holds, that it was violated, or that the run could not tell.
//
// A [Checker] judges one thing about the operations of one workload, or about the
// whole run. Checkers of a key's values and versions are package contract's; those
// of this package know a workload's own meaning: the elements of a set, the sum of
// a counter. All are pure: the same history gives the same result, but for those
// that a bound of time cut short, and these say so.
//
// A checker gives the benefit of the doubt: what it reports is wrong. That it would
// have found what it looks for is for planted faults to show, and for the void
// rules: a run in which nothing happened, or to which no fault was done, proves
// nothing and must not look like one that did.
package check

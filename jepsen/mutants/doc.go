// Package mutants shows that the partition tests can fail: it runs them on a
// cluster that does one known thing wrong, and has to hear so. A [Mutant] is such a
// fault with the run that finds it: workloads, a schedule of other faults, and the
// seeds to try. [Run] takes them one after the other, and runs each with the same
// seeds on the same program without the fault, which has to hold.
//
// The program is a fault build of capstan, which plants what the variable
// CAPSTAN_FAULT names: see package storage/fault. Names are all that is known of the
// faults here. The lab is that of namespaces: several of the schedules shape links.
package mutants

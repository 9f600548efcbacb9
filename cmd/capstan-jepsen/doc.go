// Command capstan-jepsen tests a Capstan cluster while its network, processes,
// disks and clocks are disturbed, and judges what clients saw.
//
// This package owns flags, signals, printing and exit codes, and nothing else: run
// takes all that a process has (arguments, streams, a context that ends with the
// first signal) and returns the exit status, so that a test can be the shell.
//
// Exit status: 0 what was promised holds; 1 it was violated; 2 the test could not
// tell, or did not run, wrong usage included.
package main

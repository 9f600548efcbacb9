// Command capstan is the server, its client on the command line, a cluster to
// try things on, and a load generator.
//
// This package owns flags, signals, printing and exit codes, and nothing else:
// run takes all that a process has (arguments, streams, a context that ends
// with the first signal) and returns the exit status, so that a test can be the
// shell. What a server is, it is told: an opener.
//
// Exit status: 0 done; 1 no (not found, condition failed, superseded, expired);
// 2 usage or invalid argument; 3 failed, not applied; 4 outcome unknown or still
// pending; 5 (serve) the cluster refuses the data directory for good.
package main

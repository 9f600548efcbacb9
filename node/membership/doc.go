// Package membership finds the other nodes by gossip and tells which of them seem
// to be alive. It is the only user of hashicorp/serf and its memberlist (SWIM with
// Lifeguard), and nothing of theirs shows in its own interface.
//
// It only tells: a member that has failed may be alive behind a cut, and views
// differ from node to node. Who belongs to the cluster is for the control group.
//
//   - A member's gossip name is its node id, so two nodes never claim one name; the
//     conflict vote of serf, which would stop a node, is off.
//   - The cluster's name is the gossip label: packets and streams with another are
//     not heard. A member of another cluster id is not let in, once both sides have
//     one, and never shown. Nodes that have none yet see everybody.
//   - The join addresses are tried for ever, resolved anew each time: whatever is
//     not an alive member at one of them is asked again at least every
//     joinIntervalMax. So halves that gave each other up find each other again for
//     as long as one has an address of the other, and members that failed are tried
//     for forgetAfter besides.
//   - A failure is declared 4 to 5 s after the last answer in a small cluster.
//   - What members say of themselves rides in serf's tags, 512 bytes at most, checked
//     by Open.
//
// node.Open opens it after the identity and closes it before. serf's own
// goroutines end after Close, but serf has no way to wait for them: they hold no
// socket and no file by then.
package membership

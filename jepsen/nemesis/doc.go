// Package nemesis disturbs a network by a plan. A [Kind] says what it does, as a
// pure function: of nodes and chance it makes the links to touch and the rule
// that they follow meanwhile (Jepsen calls those that cut grudges). [Plan] draws a
// [Schedule] from a seed; [Schedule.Write] prints it and [Read] takes it back,
// links and all, so a run can be repeated without the seed, and by hand shortened.
// [Run] carries it out and reports what each fault did to frames: one without
// effect proves nothing.
package nemesis

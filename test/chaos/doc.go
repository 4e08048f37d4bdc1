// Package chaos plays a schedule of faults on a cluster of three servers and five hosts under load and checks that it keeps its promises
// meanwhile and afterwards. The schedule is drawn from a seed (package schedule), and what was seen is judged by package invariant.
// README.md has the flow.
package chaos

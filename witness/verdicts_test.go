package witness

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/controlplane/servicespec"
)

var start = time.Unix(1_800_000_000, 0)

func statement(t *testing.T, witness, subject string, reachable bool, sequence uint64, at time.Time) skepv1.Statement {
	t.Helper()
	s, err := Sign(testKey(witness), skepv1.Statement{Witness: witness, Subject: subject, Reachable: reachable, Since: at.Add(-250 * time.Millisecond), At: at, Sequence: sequence})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// scene is verdicts over ten nodes, the subject node0, its three watchers, and another node that does not watch it.
func scene(t *testing.T) (v *Verdicts, watchers []string, other string) {
	t.Helper()
	v = NewVerdicts()
	v.SetNodes(testNodes(10), start)
	watchers = v.Ring().Watchers("node0")
	for _, n := range testNodes(10) {
		if n.Name != "node0" && !slices.Contains(watchers, n.Name) {
			return v, watchers, n.Name
		}
	}
	t.Fatal("every node watches node0")
	return nil, nil, ""
}

func add(t *testing.T, v *Verdicts, s skepv1.Statement, at time.Time) *Change {
	t.Helper()
	c, err := v.Add(s, at)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTwoWatchersAreAVerdict(t *testing.T) {
	v, w, _ := scene(t)
	if c := add(t, v, statement(t, w[0], "node0", false, 1, start), start); c != nil {
		t.Errorf("one watcher alone: %+v", c)
	}
	if c := add(t, v, statement(t, w[0], "node0", false, 2, start), start); c != nil {
		t.Errorf("one watcher twice: %+v", c)
	}
	later := start.Add(10 * time.Millisecond)
	c := add(t, v, statement(t, w[1], "node0", false, 1, later), later)
	if c == nil || !c.Down || c.Node != "node0" || len(c.Evidence) != 2 || !c.Since.Equal(start.Add(-250*time.Millisecond)) {
		t.Fatalf("two watchers: %+v", c)
	}
	if c := add(t, v, statement(t, w[2], "node0", false, 1, later), later); c != nil {
		t.Errorf("the third watcher changes nothing: %+v", c)
	}
	if c := add(t, v, statement(t, w[0], "node0", true, 3, later), later); c != nil {
		t.Errorf("two of three still cannot reach it: %+v", c)
	}
	c = add(t, v, statement(t, w[1], "node0", true, 2, later), later)
	if c == nil || c.Down || !c.Since.IsZero() || v.IsDown("node0") {
		t.Errorf("two of three reach it again: %+v", c)
	}
}

func TestStatementsThatDoNotCount(t *testing.T) {
	v, w, other := scene(t)
	add(t, v, statement(t, w[0], "node0", false, 5, start), start)
	forged := statement(t, w[1], "node0", false, 5, start)
	forged.Since = forged.Since.Add(time.Second)
	stolen := statement(t, other, "node0", false, 5, start)
	stolen.Witness = w[1]
	for _, c := range []struct {
		name string
		s    skepv1.Statement
		want error
	}{
		{"again", statement(t, w[0], "node0", false, 5, start), ErrKnown},
		{"an earlier one", statement(t, w[0], "node0", true, 4, start), ErrKnown},
		{"of a node that does not watch", statement(t, other, "node0", false, 9, start), ErrNotWatcher},
		{"about itself", statement(t, "node0", "node0", false, 9, start), ErrNotWatcher},
		{"about no node", statement(t, w[0], "nobody", false, 9, start), ErrNotWatcher},
		{"recorded long ago", statement(t, w[1], "node0", false, 9, start.Add(-Validity-time.Second)), ErrStale},
		{"of the future", statement(t, w[1], "node0", false, 9, start.Add(Validity+time.Second)), ErrStale},
		{"changed", forged, ErrSignature},
		{"in another's name", stolen, ErrSignature},
		{"unsigned", skepv1.Statement{Witness: w[1], Subject: "node0", At: start, Sequence: 9}, ErrSignature},
	} {
		if _, err := v.Add(c.s, start); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	if len(v.Down()) != 0 {
		t.Errorf("down by none of that: %v", v.Down())
	}
}

// A statement that its witness does not repeat ends, and what was recorded of it meanwhile cannot be played again.
func TestStatementsExpire(t *testing.T) {
	v, w, _ := scene(t)
	first, second := statement(t, w[0], "node0", false, 1, start), statement(t, w[1], "node0", false, 1, start)
	add(t, v, first, start)
	add(t, v, second, start)
	if got := v.Expire(start.Add(Validity)); len(got) != 0 {
		t.Errorf("after %s: %+v", Validity, got)
	}
	got := v.Expire(start.Add(Validity + time.Millisecond))
	if len(got) != 1 || got[0].Down || got[0].Node != "node0" {
		t.Errorf("a moment later: %+v", got)
	}
	for at := start; at.Before(start.Add(3 * Validity)); at = at.Add(Validity / 10) {
		v.Expire(at)
		if c, err := v.Add(first, at); c != nil || err == nil {
			t.Fatalf("played again %s later: %+v, %v", at.Sub(start), c, err)
		}
	}
}

func TestChangesOfTheNodes(t *testing.T) {
	v, w, _ := scene(t)
	add(t, v, statement(t, w[0], "node0", false, 1, start), start)
	add(t, v, statement(t, w[1], "node0", false, 1, start), start)
	nodes := testNodes(10)
	for i := range nodes {
		if nodes[i].Name == w[0] {
			nodes[i].Alive = false // it watches nobody now
		}
	}
	if got := v.SetNodes(nodes, start); len(got) != 1 || got[0].Down {
		t.Errorf("one of two witnesses is gone: %+v", got)
	}
	v.SetNodes(testNodes(10), start)
	if got := v.SetNodes(slices.DeleteFunc(testNodes(10), func(n Node) bool { return n.Name == "node0" }), start); len(got) != 1 || got[0].Down {
		t.Errorf("the node itself is gone: %+v", got)
	}
}

func TestBothFormsOfAStatement(t *testing.T) {
	s := statement(t, "a", "b", true, 1<<63+5, start.Add(123456789))
	data, err := AppendStatement([]byte("x"), s)
	if err != nil {
		t.Fatal(err)
	}
	got, rest, err := ParseStatement(append(data[1:], "rest"...))
	if err != nil || string(rest) != "rest" || !Verify(testNode("a").Key, got) {
		t.Errorf("binary: %+v, %q, %v", got, rest, err)
	}
	for cut := range len(data) - 1 {
		if _, _, err := ParseStatement(data[1 : 1+cut]); err == nil {
			t.Errorf("%d of %d bytes are accepted", cut, len(data)-1)
		}
	}
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var read skepv1.Statement
	if err := json.Unmarshal(text, &read); err != nil || !Verify(testNode("a").Key, read) {
		t.Errorf("JSON %s: %v, signature valid: %v", text, err, Verify(testNode("a").Key, read))
	}
	if node, ok := skepv1.NodeOfStatements(skepv1.PathStatements("n1")); !ok || node != "n1" {
		t.Errorf("path %s is of %q", skepv1.PathStatements("n1"), node)
	}
	if _, err := Sign(testKey("a"), skepv1.Statement{Witness: "a", Subject: string(make([]byte, 256))}); err == nil {
		t.Error("a name of 256 bytes is signed")
	}
}

func FuzzParseStatement(f *testing.F) {
	s, err := Sign(testKey("a"), skepv1.Statement{Witness: "a", Subject: "b", Since: start, At: start, Sequence: 1})
	if err != nil {
		f.Fatal(err)
	}
	data, err := AppendStatement(nil, s)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		s, rest, err := ParseStatement(data)
		if err != nil || s.Witness == "" || s.Subject == "" {
			return
		}
		again, err := AppendStatement(nil, s)
		if err != nil || string(again) != string(data[:len(data)-len(rest)]) {
			t.Errorf("%x was read, and is written as %x, %v", data, again, err)
		}
	})
}

func TestNodeObjects(t *testing.T) {
	object := func(key string, conditions ...corev1.NodeCondition) *corev1.Node {
		return &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "n", Annotations: map[string]string{KeyAnnotation: key}, Labels: map[string]string{corev1.LabelTopologyZone: "z"}},
			Status:     corev1.NodeStatus{Conditions: conditions},
		}
	}
	key := "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqo="
	ready := func(s corev1.ConditionStatus) corev1.NodeCondition {
		return corev1.NodeCondition{Type: corev1.NodeReady, Status: s}
	}
	for _, c := range []struct {
		name               string
		object             *corev1.Node
		key, alive, isDown bool
	}{
		{"new", object(key), true, true, false},
		{"ready", object(key, ready(corev1.ConditionTrue)), true, true, false},
		{"not ready, but its agent says so", object(key, ready(corev1.ConditionFalse)), true, true, true},
		{"lost", object(key, ready(corev1.ConditionUnknown)), true, false, true},
		{"an older agent", object(""), false, true, false},
		{"a key that is none", object("MCow"), false, true, false},
		{"no program at its uplinks", object(key, corev1.NodeCondition{Type: servicespec.ServesOutside, Status: corev1.ConditionFalse}), false, true, false},
	} {
		if n := FromObject(c.object); (len(n.Key) > 0) != c.key || n.Alive != c.alive || n.Down != c.isDown || n.Zone != "z" || n.Name != "n" {
			t.Errorf("%s: %+v", c.name, n)
		}
	}
}

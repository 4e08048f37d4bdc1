package service

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// AwaitProblems returns all that changed and nothing else, and Problems lists the current ones.
func TestProblemsAreReportedAsTheyChange(t *testing.T) {
	p, _ := newStage(t).recording(t, Limits{})
	defer p.Close()
	await := func(want string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		got := map[string]int{}
		for name, problems := range p.AwaitProblems(ctx) {
			got[name] = len(problems)
		}
		if fmt.Sprint(got) != want {
			t.Errorf("got %v, want %s; problems %v", got, want, p.Problems())
		}
	}
	set := func(words ...string) { p.SetService(parseService(t, words)) }
	for i := range 100 { // nothing wrong with these
		set(fmt.Sprintf("default/s%d:p", i), fmt.Sprintf("10.96.1.%d:80/tcp", i), "->", "10.244.1.1:80")
	}
	set("default/b:p", "since=1", "192.0.2.1:80/tcp", "192.0.2.2:80/tcp")
	set("default/a:p", "since=2", "192.0.2.1:80/tcp", "192.0.2.2:80/tcp")
	await("map[default/a:p:2]")
	set("default/a:p", "since=2", "192.0.2.1:80/tcp", "192.0.2.2:80/tcp", "->", "10.244.1.1:80") // as before
	set("default/c:p", "since=0", "192.0.2.1:80/tcp")                                            // a has another rival now, b its first
	await("map[default/a:p:2 default/b:p:1]")
	p.DeleteService("default/b:p")
	await("map[default/a:p:1 default/b:p:0]")
	if problems := p.Problems(); len(problems) != 1 || problems[0].Owner != "default/c:p" {
		t.Errorf("problems %v", problems)
	}
	p.DeleteService("default/c:p")
	await("map[default/a:p:0]")
	if problems := p.Problems(); len(problems) != 0 {
		t.Errorf("problems %v", problems)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if got := p.AwaitProblems(ended); got != nil {
		t.Errorf("got %v after the end", got)
	}
}

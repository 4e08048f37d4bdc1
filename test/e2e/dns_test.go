package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/cmd/skep/cluster"
	"github.com/skep-io/skep/test/clustertest"
)

const (
	// A lookup whose question or answer is lost waits 5 s before it asks again, longer than this.
	lookupBound = 3500 * time.Millisecond
	lookupEvery = 50 * time.Millisecond
	cutFor      = lookupBound + time.Second
)

// ownDNS waits until every host has a ready instance of cluster DNS. An earlier test may have had one replaced on another host.
func (s *space) ownDNS(hosts []*cluster.Node) {
	s.Helper()
	pods := client.CoreV1().Pods("kube-system")
	clustertest.Eventually(s.T, "an instance of cluster DNS on every host", func() error {
		list, err := pods.List(s.Context(), metav1.ListOptions{LabelSelector: "k8s-app=kube-dns"})
		if err != nil {
			return err
		}
		ready := map[string]int{}
		for _, pod := range list.Items {
			if pod.DeletionTimestamp != nil {
				continue
			}
			if ready[pod.Spec.NodeName]++; ready[pod.Spec.NodeName] > 1 {
				return pods.Delete(s.Context(), pod.Name, metav1.DeleteOptions{})
			}
			if !clustertest.Ready(pod) {
				return fmt.Errorf("%s on %s is not ready", pod.Name, pod.Spec.NodeName)
			}
		}
		if len(ready) != len(hosts) {
			return fmt.Errorf("instances on %d of %d hosts", len(ready), len(hosts))
		}
		return nil
	})
}

// resolver starts a pod on the host that looks up a name all the time.
func (s *space) resolver(host string) {
	s.Helper()
	s.SkepIn(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"resolver-`+host+`"},"spec":{"nodeName":"`+host+`","tolerations":[{"operator":"Exists"}],
		"terminationGracePeriodSeconds":1,"containers":[{"name":"c","image":"skep/echo:dev","imagePullPolicy":"IfNotPresent",
		"args":["resolve","--interval","`+lookupEvery.String()+`","--bound","`+lookupBound.String()+`","kubernetes.default.svc.cluster.local."]}]}}`, "apply", "-f", "-")
}

// lookups says how many each resolver has done: those that were answered in time, and those that were not.
func (s *space) lookups(hosts []*cluster.Node) (resolved, not map[string]int) {
	s.Helper()
	resolved, not = map[string]int{}, map[string]int{}
	for _, host := range hosts {
		clustertest.Eventually(s.T, "counts of resolver-"+host.Name, func() error {
			out, err := local.Skep(s.Context(), "", "-n", s.Name, "logs", "--tail=1", "resolver-"+host.Name)
			if err != nil {
				return err
			}
			var yes, no int
			_, err = fmt.Sscanf(out, "resolved %d not %d", &yes, &no)
			resolved[host.Name], not[host.Name] = yes, no
			return err
		})
	}
	return resolved, not
}

// While a host is cut off, its pods resolve names by its own instance of DNS and others' by theirs. Where all instances take turns, what was asked
// of one that is cut off is asked of another as soon as its host is out of the maps, since the kernel closes the socket that waits for it.
func TestNamesWhileHostIsCutOff(t *testing.T) {
	s := newSpace(t)
	hosts := s.watched()
	s.ownDNS(hosts)
	for _, host := range hosts {
		s.resolver(host.Name)
	}
	s.Await("resolvers", clustertest.AllReady(len(hosts)))
	cut := hosts[0]
	allResolve := func(watched []*cluster.Node) {
		t.Helper()
		_, before := s.lookups(watched)
		if err := cut.Cut(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(cutFor)
		if err := cut.Heal(); err != nil {
			t.Fatal(err)
		}
		healed, _ := s.lookups(watched)
		clustertest.Eventually(t, "the end of the lookups that were under way", func() error {
			now, not := s.lookups(watched)
			for name := range now {
				if now[name]+not[name] < healed[name]+int(cutFor/lookupEvery) {
					return fmt.Errorf("%s: %d lookups, %d when healed", name, now[name]+not[name], healed[name])
				}
			}
			return nil
		})
		resolved, not := s.lookups(watched)
		for _, host := range watched {
			if lost := not[host.Name] - before[host.Name]; lost > 0 {
				t.Errorf("on %s %d names were not resolved within %v, %d were", host.Name, lost, lookupBound, resolved[host.Name])
			}
		}
	}
	allResolve(hosts)

	inTurn := func(value string) {
		s.Skep("-n", "kube-system", "patch", "service", "kube-dns", "--type=merge", "-p", `{"spec":{"trafficDistribution":`+value+`}}`)
	}
	inTurn("null")
	t.Cleanup(func() {
		if out, err := local.Skep(context.Background(), "", "-n", "kube-system", "patch", "service", "kube-dns", "--type=merge", "-p", `{"spec":{"trafficDistribution":"PreferSameNode"}}`); err != nil {
			t.Error(out, err)
		}
	})
	clustertest.Eventually(t, "slices without hints", func() error {
		if strings.Contains(s.Skep("-n", "kube-system", "get", "endpointslices", "-l", "kubernetes.io/service-name=kube-dns", "-o", "yaml"), "forNodes") {
			return errors.New("they have hints for nodes")
		}
		return nil
	})
	allResolve(hosts[1:])
}

package scheduler

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

const configurationHead = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"

// What a configuration may not say is refused with its path.
func TestConfigurationRefused(t *testing.T) {
	fit := func(strategy string) string {
		return "profiles:\n- pluginConfig:\n  - name: NodeResourcesFit\n    args: {scoringStrategy: " + strategy + "}\n"
	}
	for name, tt := range map[string]struct{ text, want string }{
		"other version":      {"apiVersion: kubescheduler.config.k8s.io/v1beta3\nkind: KubeSchedulerConfiguration\n", "want kubescheduler.config.k8s.io/v1 and KubeSchedulerConfiguration"},
		"unknown field":      {configurationHead + "profils: []\n", "profils"},
		"other case":         {configurationHead + "Profiles: []\n", "Profiles"},
		"given twice":        {configurationHead + "profiles: []\nprofiles: []\n", "profiles"},
		"wrong type":         {configurationHead + "profiles: {}\n", "profiles"},
		"extenders":          {configurationHead + "extenders: [{urlPrefix: 'http://x'}]\n", "extenders: Forbidden: is not supported by Skep"},
		"leader election":    {configurationHead + "leaderElection: {leaderElect: false}\n", "leaderElection: Forbidden"},
		"filters":            {configurationHead + "profiles:\n- plugins: {filter: {disabled: [{name: NodePorts}]}}\n", "profiles[0].plugins.filter: Forbidden"},
		"multi point":        {configurationHead + "profiles:\n- plugins: {multiPoint: {disabled: [{name: '*'}]}}\n", "profiles[0].plugins.multiPoint: Forbidden"},
		"weight of disabled": {configurationHead + "profiles:\n- plugins: {score: {disabled: [{name: ImageLocality, weight: 1}]}}\n", "profiles[0].plugins.score.disabled[0].weight: Forbidden"},
		"unknown score":      {configurationHead + "profiles:\n- plugins: {score: {enabled: [{name: MyScore}]}}\n", "profiles[0].plugins.score.enabled[0].name: Unsupported value: \"MyScore\""},
		"enabled twice":      {configurationHead + "profiles:\n- plugins: {score: {enabled: [{name: ImageLocality}, {name: ImageLocality}]}}\n", "profiles[0].plugins.score.enabled[1].name: Duplicate value"},
		"weight too large":   {configurationHead + "profiles:\n- plugins: {score: {enabled: [{name: ImageLocality, weight: 2000000000}]}}\n", "profiles[0].plugins.score.enabled[0].weight: Invalid value"},
		"profile twice":      {configurationHead + "profiles:\n- schedulerName: a\n- schedulerName: a\n", "profiles[1].schedulerName: Duplicate value: \"a\""},
		"name":               {configurationHead + "profiles:\n- schedulerName: A_b\n", "profiles[0].schedulerName: Invalid value"},
		"share":              {configurationHead + "percentageOfNodesToScore: 101\n", "percentageOfNodesToScore: Invalid value: 101"},
		"share of a profile": {configurationHead + "profiles:\n- percentageOfNodesToScore: -1\n", "profiles[0].percentageOfNodesToScore: Invalid value: -1"},
		"back-off":           {configurationHead + "podInitialBackoffSeconds: 5\npodMaxBackoffSeconds: 4\n", "podMaxBackoffSeconds: Invalid value: 4"},
		"no back-off":        {configurationHead + "podInitialBackoffSeconds: 0\n", "podInitialBackoffSeconds: Invalid value: 0"},
		"other arguments":    {configurationHead + "profiles:\n- pluginConfig:\n  - name: InterPodAffinity\n    args: {hardPodAffinityWeight: 5}\n", "profiles[0].pluginConfig[0].name: Unsupported value: \"InterPodAffinity\""},
		"unknown argument":   {configurationHead + "profiles:\n- pluginConfig:\n  - name: NodeResourcesFit\n    args: {strategy: {}}\n", "profiles[0].pluginConfig[0].args: Invalid value"},
		"ignored resources":  {configurationHead + "profiles:\n- pluginConfig:\n  - name: NodeResourcesFit\n    args: {ignoredResources: [example.com/gpu]}\n", "profiles[0].pluginConfig[0].args.ignoredResources: Forbidden"},
		"other kind of args": {configurationHead + "profiles:\n- pluginConfig:\n  - name: NodeResourcesFit\n    args: {kind: NodeAffinityArgs}\n", "profiles[0].pluginConfig[0].args.kind: Unsupported value"},
		"candidates":         {configurationHead + "profiles:\n- pluginConfig:\n  - name: DefaultPreemption\n    args: {minCandidateNodesPercentage: 0, minCandidateNodesAbsolute: 0}\n", "profiles[0].pluginConfig[0].args: Invalid value"},
		"strategy":           {configurationHead + fit("{type: Best}"), "args.scoringStrategy.type: Unsupported value: \"Best\""},
		"resource weight":    {configurationHead + fit("{type: MostAllocated, resources: [{name: cpu, weight: 101}]}"), "args.scoringStrategy.resources[0].weight: Invalid value: 101"},
		"no shape":           {configurationHead + fit("{type: RequestedToCapacityRatio}"), "args.scoringStrategy.requestedToCapacityRatio: Required value"},
		"empty shape":        {configurationHead + fit("{type: RequestedToCapacityRatio, requestedToCapacityRatio: {shape: []}}"), "requestedToCapacityRatio.shape: Required value"},
		"unordered shape":    {configurationHead + fit("{type: RequestedToCapacityRatio, requestedToCapacityRatio: {shape: [{utilization: 50, score: 1}, {utilization: 50, score: 2}]}}"), "shape[1].utilization: Invalid value: 50"},
		"score of a shape":   {configurationHead + fit("{type: RequestedToCapacityRatio, requestedToCapacityRatio: {shape: [{utilization: 0, score: 11}]}}"), "shape[0].score: Invalid value: 11"},
		"useless shape":      {configurationHead + fit("{type: MostAllocated, requestedToCapacityRatio: {shape: [{utilization: 0, score: 1}]}}"), "requestedToCapacityRatio: Forbidden"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := parseConfiguration([]byte(tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v, want %q in it", err, tt.want)
			}
		})
	}
}

func TestConfiguration(t *testing.T) {
	c, err := parseConfiguration([]byte(configurationHead + `
percentageOfNodesToScore: 30
podInitialBackoffSeconds: 2
podMaxBackoffSeconds: 20
profiles:
- {}
- schedulerName: packing
  percentageOfNodesToScore: 50
  plugins:
    score:
      disabled: [{name: PodTopologySpread}, {name: ImageLocality}]
      enabled: [{name: NodeResourcesFit, weight: 9}, {name: ImageLocality}]
    postFilter: {disabled: [{name: "*"}]}
  pluginConfig:
  - name: NodeResourcesFit
    args:
      apiVersion: kubescheduler.config.k8s.io/v1
      kind: NodeResourcesFitArgs
      scoringStrategy: {type: MostAllocated, resources: [{name: example.com/gpu, weight: 3}, {name: cpu}]}
  - name: DefaultPreemption
    args: {minCandidateNodesPercentage: 20, minCandidateNodesAbsolute: 5}
- schedulerName: alone
  plugins: {score: {disabled: [{name: "*"}], enabled: [{name: NodeAffinity, weight: 4}]}}
`))
	if err != nil {
		t.Fatal(err)
	}
	text := func(name string) string {
		p := c.profiles[name]
		var scores []string
		for _, s := range p.scores {
			scores = append(scores, fmt.Sprintf("%T %d", s.score, s.weight))
		}
		return fmt.Sprintf("%d%% preempts=%v %d%% %d %s", p.share, p.preempts, p.candidateShare, p.minCandidates, strings.ReplaceAll(strings.Join(scores, ", "), "scheduler.", ""))
	}
	for name, want := range map[string]string{
		"default-scheduler": "30% preempts=true 10% 100 taintScore 3, nodeAffinityScore 2, leastAllocatedScore 1, spreadScore 2, podAffinityScore 2, balanceScore 1, imageScore 1",
		"packing":           "50% preempts=false 20% 5 taintScore 3, nodeAffinityScore 2, *strategyScore 9, podAffinityScore 2, balanceScore 1, imageScore 1",
		"alone":             "30% preempts=true 10% 100 nodeAffinityScore 4",
	} {
		if got := text(name); got != want {
			t.Errorf("%s is\n%s, want\n%s", name, got, want)
		}
	}
	if len(c.profiles) != 3 || c.minBackoff.Seconds() != 2 || c.maxBackoff.Seconds() != 20 {
		t.Errorf("%d profiles, back-offs %s and %s", len(c.profiles), c.minBackoff, c.maxBackoff)
	}
	only, err := parseConfiguration([]byte(configurationHead + "profiles: [{schedulerName: mine}]\n"))
	if err != nil || only.of(testPod("p", "a", 1, 0)) != nil {
		t.Errorf("pods of default-scheduler have a profile beside the only one, mine (%v)", err)
	}
}

// What each strategy gives hosts whose CPU and GPUs are in use to different degrees. Figures are computed by hand from Kubernetes' rules.
func TestScoringStrategies(t *testing.T) {
	const cpuTwiceGPU = "[{name: cpu, weight: 2}, {name: example.com/gpu, weight: 1}]"
	shape := func(points string) string { return ", requestedToCapacityRatio: {shape: [" + points + "]}" }
	for _, tt := range []struct {
		name, strategy string
		gpus           int64
		want           string // of hosts with 20%, 50% and 100% of CPU in use with the pod, and 25%, 50% and 75% of four GPUs where it asks for one
	}{
		{"least", "{type: LeastAllocated, resources: [{name: cpu}]}", 0, "[80 50 0]"},
		{"most", "{type: MostAllocated, resources: [{name: cpu}]}", 0, "[20 50 100]"},
		{"most, weighted", "{type: MostAllocated, resources: " + cpuTwiceGPU + "}", 1, "[21 50 91]"},
		{"least, weighted", "{type: LeastAllocated, resources: " + cpuTwiceGPU + "}", 1, "[78 50 8]"},
		{"not asked for", "{type: MostAllocated, resources: " + cpuTwiceGPU + "}", 0, "[20 50 100]"},
		{"rising", "{type: RequestedToCapacityRatio, resources: [{name: cpu}]" + shape("{utilization: 0, score: 0}, {utilization: 100, score: 10}") + "}", 0, "[20 50 100]"},
		{"tent", "{type: RequestedToCapacityRatio, resources: [{name: cpu}]" + shape("{utilization: 10, score: 2}, {utilization: 50, score: 10}, {utilization: 90, score: 0}") + "}", 0, "[40 100 0]"},
		{"nothing does not count", "{type: RequestedToCapacityRatio, resources: " + cpuTwiceGPU + shape("{utilization: 50, score: 10}, {utilization: 100, score: 0}") + "}", 1, "[100 100 50]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := parseConfiguration([]byte(configurationHead + "profiles:\n- pluginConfig:\n  - name: NodeResourcesFit\n    args: {scoringStrategy: " + tt.strategy + "}\n"))
			if err != nil {
				t.Fatal(err)
			}
			cl := newCluster(c)
			var hosts []*host
			for i, used := range []int64{100, 400, 900} {
				n := testNode(fmt.Sprint("node", i), "a", 1000, 100)
				n.Status.Allocatable["example.com/gpu"] = *resource.NewQuantity(4, resource.DecimalSI)
				cl.setNode(n)
				p := testPod(fmt.Sprint("pod", i), "a", used, 0)
				p.Spec.Containers[0].Resources.Requests["example.com/gpu"] = *resource.NewQuantity(int64(i), resource.DecimalSI)
				p.Spec.NodeName = n.Name
				cl.place(newRequest(p))
				hosts = append(hosts, cl.hosts[n.Name])
			}
			pod := testPod("pod", "a", 100, 0)
			if tt.gpus > 0 {
				pod.Spec.Containers[0].Resources.Requests["example.com/gpu"] = *resource.NewQuantity(tt.gpus, resource.DecimalSI)
			}
			for _, s := range c.profiles[corev1.DefaultSchedulerName].scores {
				of, is := s.score.(*strategyScore)
				if !is {
					continue
				}
				scores := make([]int64, len(hosts))
				of.rating(cl, newRequest(pod)).rate(hosts, scores)
				if got := fmt.Sprint(scores); got != tt.want {
					t.Errorf("scores are %s, want %s", got, tt.want)
				}
				return
			}
			t.Fatal("the profile has no such score")
		})
	}
}

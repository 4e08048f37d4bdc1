package scheduler

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	schedulerv1 "k8s.io/kube-scheduler/config/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"
)

// fields are the fields of a part of the configuration file, by name: nil for a value, a list's for each of its items.
type fields map[string]fields

var (
	named   = fields{"name": nil}
	scoring = fields{"name": nil, "weight": nil}
	// supported are the fields that a file may have. All others would be ignored, so they are refused.
	supported = fields{
		"apiVersion": nil, "kind": nil, "percentageOfNodesToScore": nil, "podInitialBackoffSeconds": nil, "podMaxBackoffSeconds": nil,
		"profiles": fields{
			"schedulerName": nil, "percentageOfNodesToScore": nil,
			"plugins":      fields{"score": fields{"enabled": scoring, "disabled": named}, "postFilter": fields{"enabled": named, "disabled": named}},
			"pluginConfig": fields{"name": nil, "args": fields{}},
		},
	}
	supportedArgs = map[string]fields{
		"NodeResourcesFit": {"apiVersion": nil, "kind": nil, "scoringStrategy": fields{
			"type": nil, "resources": scoring, "requestedToCapacityRatio": fields{"shape": fields{"utilization": nil, "score": nil}},
		}},
		"DefaultPreemption": {"apiVersion": nil, "kind": nil, "minCandidateNodesPercentage": nil, "minCandidateNodesAbsolute": nil},
	}
)

const (
	preemptionPlugin = "DefaultPreemption"
	fitPlugin        = "NodeResourcesFit"
	everyPlugin      = "*"
)

// ReadConfiguration reads a KubeSchedulerConfiguration of kubescheduler.config.k8s.io/v1. An error names the path of what is wrong or not
// supported: nothing in the file is ignored.
func ReadConfiguration(path string) (*Configuration, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c, err := parseConfiguration(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

func parseConfiguration(data []byte) (*Configuration, error) {
	file, errs := &schedulerv1.KubeSchedulerConfiguration{}, field.ErrorList{}
	if err := yaml.UnmarshalStrict(data, file); err != nil {
		return nil, err
	}
	if want := schedulerv1.SchemeGroupVersion.String(); file.APIVersion != want || file.Kind != "KubeSchedulerConfiguration" {
		return nil, fmt.Errorf("apiVersion %q and kind %q: want %s and KubeSchedulerConfiguration", file.APIVersion, file.Kind, want)
	}
	var all map[string]any
	if err := yaml.Unmarshal(data, &all); err != nil {
		return nil, err
	}
	errs = append(errs, onlySupported(nil, all, supported)...)
	c := DefaultConfiguration()
	errs = append(errs, c.setBackoff(file)...)
	errs = append(errs, checkShare(field.NewPath("percentageOfNodesToScore"), file.PercentageOfNodesToScore)...)
	if len(file.Profiles) > 0 {
		c.profiles = map[string]*profile{}
	}
	for i := range file.Profiles {
		at := field.NewPath("profiles").Index(i)
		p, problems := readProfile(at, &file.Profiles[i])
		errs = append(errs, problems...)
		if c.profiles[p.name] != nil {
			errs = append(errs, field.Duplicate(at.Child("schedulerName"), p.name))
		}
		c.profiles[p.name] = p
	}
	for _, p := range c.profiles {
		if p.share == 0 {
			p.share = int(ptr.Deref(file.PercentageOfNodesToScore, 0))
		}
	}
	return c, errs.ToAggregate()
}

// onlySupported refuses fields that are not supported. What has the wrong type has been refused before.
func onlySupported(at *field.Path, value any, of fields) (errs field.ErrorList) {
	switch value := value.(type) {
	case map[string]any:
		for name, v := range value {
			in, has := of[name]
			switch {
			case v == nil:
			case !has:
				errs = append(errs, field.Forbidden(at.Child(name), "is not supported by Skep; remove it"))
			case in != nil && name != "args": // those are looked at by plugin
				errs = append(errs, onlySupported(at.Child(name), v, in)...)
			}
		}
	case []any:
		for i, v := range value {
			errs = append(errs, onlySupported(at.Index(i), v, of)...)
		}
	}
	slices.SortFunc(errs, func(a, b *field.Error) int { return strings.Compare(a.Field, b.Field) })
	return errs
}

func (c *Configuration) setBackoff(file *schedulerv1.KubeSchedulerConfiguration) (errs field.ErrorList) {
	if s := file.PodInitialBackoffSeconds; s != nil {
		if c.minBackoff = time.Duration(*s) * time.Second; *s <= 0 {
			errs = append(errs, field.Invalid(field.NewPath("podInitialBackoffSeconds"), *s, "must be greater than 0"))
		}
	}
	if s := file.PodMaxBackoffSeconds; s != nil {
		c.maxBackoff = time.Duration(*s) * time.Second
	}
	if c.maxBackoff < c.minBackoff {
		errs = append(errs, field.Invalid(field.NewPath("podMaxBackoffSeconds"), int64(c.maxBackoff.Seconds()), "must be greater than or equal to podInitialBackoffSeconds"))
	}
	return errs
}

func checkShare(at *field.Path, share *int32) field.ErrorList {
	if share != nil && (*share < 0 || *share > 100) {
		return field.ErrorList{field.Invalid(at, *share, "not in valid range [0-100]")}
	}
	return nil
}

func readProfile(at *field.Path, from *schedulerv1.KubeSchedulerProfile) (p *profile, errs field.ErrorList) {
	p = newProfile(ptr.Deref(from.SchedulerName, corev1.DefaultSchedulerName))
	for _, problem := range validation.IsDNS1123Subdomain(p.name) {
		errs = append(errs, field.Invalid(at.Child("schedulerName"), p.name, problem))
	}
	errs = append(errs, checkShare(at.Child("percentageOfNodesToScore"), from.PercentageOfNodesToScore)...)
	p.share = int(ptr.Deref(from.PercentageOfNodesToScore, 0))
	args, fit := map[string]bool{}, score(leastAllocatedScore{})
	for i := range from.PluginConfig {
		given, at := &from.PluginConfig[i], at.Child("pluginConfig").Index(i)
		if args[given.Name] {
			errs = append(errs, field.Duplicate(at, given.Name))
		}
		args[given.Name] = true
		of, has := supportedArgs[given.Name]
		if !has {
			errs = append(errs, field.NotSupported(at.Child("name"), given.Name, []string{preemptionPlugin, fitPlugin}))
			continue
		}
		at = at.Child("args")
		var problems field.ErrorList
		if given.Name == fitPlugin {
			decoded := &schedulerv1.NodeResourcesFitArgs{}
			if problems = decodeArgs(at, given, of, decoded); problems == nil && decoded.ScoringStrategy != nil {
				fit, problems = readStrategy(at.Child("scoringStrategy"), decoded.ScoringStrategy)
			}
		} else {
			decoded := &schedulerv1.DefaultPreemptionArgs{}
			if problems = decodeArgs(at, given, of, decoded); problems == nil {
				problems = p.setCandidates(at, decoded)
			}
		}
		errs = append(errs, problems...)
	}
	if from.Plugins != nil {
		errs = append(errs, p.setPlugins(at.Child("plugins"), from.Plugins)...)
	}
	for i := range p.scores {
		if _, is := p.scores[i].score.(leastAllocatedScore); is {
			p.scores[i].score = fit
		}
	}
	return p, errs
}

// decodeArgs reads a plugin's arguments.
func decodeArgs(at *field.Path, given *schedulerv1.PluginConfig, of fields, into any) field.ErrorList {
	if given.Args.Raw == nil {
		return nil
	}
	if err := yaml.UnmarshalStrict(given.Args.Raw, into); err != nil {
		return field.ErrorList{field.Invalid(at, string(given.Args.Raw), err.Error())}
	}
	var all map[string]any
	if err := json.Unmarshal(given.Args.Raw, &all); err != nil {
		return field.ErrorList{field.Invalid(at, string(given.Args.Raw), err.Error())}
	}
	errs := onlySupported(at, all, of)
	for name, want := range map[string]string{"apiVersion": schedulerv1.SchemeGroupVersion.String(), "kind": given.Name + "Args"} {
		if has, given := all[name]; given && has != want {
			errs = append(errs, field.NotSupported(at.Child(name), fmt.Sprint(has), []string{want}))
		}
	}
	return errs
}

func (p *profile) setCandidates(at *field.Path, args *schedulerv1.DefaultPreemptionArgs) (errs field.ErrorList) {
	if n := args.MinCandidateNodesPercentage; n != nil {
		if p.candidateShare = int(*n); *n < 0 || *n > 100 {
			errs = append(errs, field.Invalid(at.Child("minCandidateNodesPercentage"), *n, "not in valid range [0, 100]"))
		}
	}
	if n := args.MinCandidateNodesAbsolute; n != nil {
		if p.minCandidates = int(*n); *n < 0 {
			errs = append(errs, field.Invalid(at.Child("minCandidateNodesAbsolute"), *n, "not in valid range [0, inf)"))
		}
	}
	if errs == nil && p.candidateShare == 0 && p.minCandidates == 0 {
		errs = append(errs, field.Invalid(at, "", "both minCandidateNodesPercentage and minCandidateNodesAbsolute cannot be zero"))
	}
	return errs
}

// setPlugins changes weights, and turns scores and preemption off. A score that is enabled by name has the weight that is given there, or 1.
func (p *profile) setPlugins(at *field.Path, given *schedulerv1.Plugins) (errs field.ErrorList) {
	var names []string
	for _, s := range namedScores {
		names = append(names, s.name)
	}
	off, weights := map[string]bool{}, map[string]int64{}
	read := func(at *field.Path, list []schedulerv1.Plugin, known []string, do func(at *field.Path, plugin *schedulerv1.Plugin)) {
		seen := map[string]bool{}
		for i := range list {
			switch plugin := &list[i]; {
			case !slices.Contains(known, plugin.Name):
				errs = append(errs, field.NotSupported(at.Index(i).Child("name"), plugin.Name, known))
			case seen[plugin.Name]:
				errs = append(errs, field.Duplicate(at.Index(i).Child("name"), plugin.Name))
			default:
				seen[plugin.Name] = true
				do(at.Index(i), plugin)
			}
		}
	}
	disable := func(_ *field.Path, plugin *schedulerv1.Plugin) { off[plugin.Name] = true }
	read(at.Child("score", "disabled"), given.Score.Disabled, append(names, everyPlugin), disable)
	read(at.Child("score", "enabled"), given.Score.Enabled, names, func(at *field.Path, plugin *schedulerv1.Plugin) {
		weight := int64(ptr.Deref(plugin.Weight, 0))
		if weight < 0 || weight > maxWeight {
			errs = append(errs, field.Invalid(at.Child("weight"), weight, fmt.Sprintf("not in valid range [0-%d]", maxWeight)))
		}
		weights[plugin.Name] = max(weight, 1)
	})
	scores := p.scores[:0]
	for _, s := range namedScores {
		weight, enabled := weights[s.name]
		if !enabled {
			weight = s.weight
		}
		if enabled || !off[s.name] && !off[everyPlugin] {
			scores = append(scores, weightedScore{s.score, weight})
		}
	}
	p.scores = scores
	clear(off)
	preempts := false
	read(at.Child("postFilter", "disabled"), given.PostFilter.Disabled, []string{preemptionPlugin, everyPlugin}, disable)
	read(at.Child("postFilter", "enabled"), given.PostFilter.Enabled, []string{preemptionPlugin}, func(*field.Path, *schedulerv1.Plugin) { preempts = true })
	p.preempts = preempts || len(off) == 0
	return errs
}

package replay

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"
)

// openLimit is how long a watch may take to show its events, and how long the end of any body is waited for
// once its answer has begun: a request that is never answered in full must not stop the run.
const openLimit = 20 * time.Second

// Report is what came of a run: how many answers were the same, differed as the cases say, and differed otherwise.
type Report struct {
	Same, Expected, Differing int
	// Problems are differences nobody expected, and expected ones that are gone.
	Problems []string
	// Gaps are the reasons of expected differences and how often they were met.
	Gaps map[string]int
}

// Compared is how many answers were looked at.
func (r *Report) Compared() int { return r.Same + r.Expected + r.Differing }

// Run replays scenarios against both servers. What happens is told line by line.
func Run(ctx context.Context, pair *Pair, scenarios []Scenario, tell io.Writer) (*Report, error) {
	report := &Report{Gaps: map[string]int{}}
	for i, scenario := range scenarios {
		run := &run{ctx: ctx, pair: pair, report: report, tell: tell, namespace: fmt.Sprintf("oracle-%d", i+1)}
		fmt.Fprintf(tell, "%s: %s\n", scenario.file, scenario.Name)
		for _, server := range []*Server{pair.Upstream, pair.Ours} {
			server.saved = map[string]string{"ns": run.namespace}
			if err := server.prepare(ctx, run.namespace); err != nil {
				return report, err
			}
		}
		for _, step := range scenario.Steps {
			if err := run.step(step); err != nil {
				return report, fmt.Errorf("%s: %s: %s: %w", scenario.file, scenario.Name, step.Do, err)
			}
		}
	}
	return report, nil
}

// Whole is called when all cases were run: a difference of all answers that was never met is out of date.
func (r *Report) Whole() {
	for _, gap := range everywhere {
		if r.Gaps[gap.Reason] == 0 {
			r.Problems = append(r.Problems, fmt.Sprintf("no difference at %s any more (%s)", gap.At, gap.Reason))
		}
	}
}

type run struct {
	ctx       context.Context
	pair      *Pair
	report    *Report
	tell      io.Writer
	namespace string
}

// prepare makes the namespace, with the service account that a controller would make.
func (s *Server) prepare(ctx context.Context, namespace string) error {
	for _, request := range []struct{ path, body string }{
		{"/api/v1/namespaces", fmt.Sprintf(`{"metadata":{"name":%q}}`, namespace)},
		{"/api/v1/namespaces/" + namespace + "/serviceaccounts", `{"metadata":{"name":"default"}}`},
	} {
		step := Step{Do: "POST " + request.path, Raw: &request.body}
		response, err := s.send(ctx, step)
		if err != nil {
			return err
		}
		text, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != http.StatusCreated {
			return fmt.Errorf("%s: POST %s: %s: %s", s.Name, request.path, response.Status, text)
		}
	}
	return nil
}

func (r *run) step(step Step) error {
	var answers [2]Answer
	for i, server := range []*Server{r.pair.Ours, r.pair.Upstream} {
		answer, err := r.ask(server, step)
		if err != nil && r.ctx.Err() != nil {
			return fmt.Errorf("%s: %w", server.Name, err)
		} else if err != nil {
			// No answer is an answer too: the other one may have given one.
			answer = Answer{Body: "no answer: " + err.Error()}
		}
		for name, path := range step.Save {
			server.saved[name] = find(answer.raw, path)
		}
		answers[i] = answer
	}
	found := differences(answers[0], answers[1])
	if step.Quiet {
		if answers[0].Status == answers[1].Status && answers[0].Status < http.StatusMultipleChoices {
			return nil
		}
		// What the scenario is about would not be there.
		return fmt.Errorf("ours: %s, upstream: %s", print(answers[0].Body), print(answers[1].Body))
	}
	r.judge(step, found)
	return nil
}

func (r *run) ask(server *Server, step Step) (Answer, error) {
	ctx, cancel := context.WithTimeout(r.ctx, patience)
	defer cancel()
	response, err := server.send(ctx, step)
	if err != nil {
		return Answer{}, err
	}
	defer response.Body.Close()
	if step.Events == 0 {
		timer := time.AfterFunc(openLimit, cancel)
		defer timer.Stop()
		return read(response)
	}
	for _, during := range step.During {
		inner, err := server.send(ctx, during)
		if err != nil {
			return Answer{}, err
		}
		answer, err := read(inner)
		inner.Body.Close()
		if err != nil {
			return Answer{}, err
		}
		for name, path := range during.Save {
			server.saved[name] = find(answer.raw, path)
		}
	}
	return events(response, step.Events, openLimit)
}

func (r *run) judge(step Step, found []Difference) {
	met := make([]bool, len(step.Differs))
	var unexpected []Difference
	for _, difference := range found {
		known := ignored(step.Ignore, difference.At)
		for i, gap := range step.Differs {
			if covers(gap.At, difference.At) {
				met[i], known = true, true
			}
		}
		for _, gap := range everywhere {
			if !known && covers(gap.At, difference.At) {
				r.report.Gaps[gap.Reason]++
				known = true
			}
		}
		if !known {
			unexpected = append(unexpected, difference)
		}
	}
	what := "same"
	problem := func(text string) {
		what = "DIFFERS"
		r.report.Problems = append(r.report.Problems, fmt.Sprintf("%s (%s)\n      %s", step.Do, r.namespace, text))
	}
	for _, difference := range unexpected {
		problem(difference.String())
	}
	for i, gap := range step.Differs {
		if met[i] {
			r.report.Gaps[gap.Reason]++
			if what == "same" {
				what = "differs as expected"
			}
		} else {
			problem(fmt.Sprintf("no difference at %s any more: take it out of the case (%s)", gap.At, gap.Reason))
		}
	}
	switch what {
	case "same":
		r.report.Same++
	case "differs as expected":
		r.report.Expected++
	default:
		r.report.Differing++
	}
	fmt.Fprintf(r.tell, "  %-20s %s\n", what, step.Do)
	for _, difference := range unexpected {
		fmt.Fprintf(r.tell, "      %s\n", difference)
	}
}

func ignored(paths []string, at string) bool {
	for _, path := range paths {
		if covers(path, at) {
			return true
		}
	}
	return false
}

// covers says whether a place (its end may be *, its indexes may be []) is the other or above it.
func covers(place, at string) bool {
	if place == "*" {
		return true
	}
	at = indexes.ReplaceAllString(at, "[]")
	place = indexes.ReplaceAllString(place, "[]")
	if prefix, ok := strings.CutSuffix(place, "*"); ok {
		return strings.HasPrefix(at, prefix)
	}
	return at == place || strings.HasPrefix(at, place+".") || strings.HasPrefix(at, place+"[")
}

var indexes = regexp.MustCompile(`\[\d*\]`)

// find is the value at a path of names and indexes, as text.
func find(tree any, path string) string {
	for _, part := range strings.Split(path, ".") {
		switch at := tree.(type) {
		case map[string]any:
			tree = at[part]
		case []any:
			var i int
			if _, err := fmt.Sscan(part, &i); err != nil || i >= len(at) {
				return ""
			}
			tree = at[i]
		default:
			return ""
		}
	}
	if text, ok := tree.(string); ok {
		return text
	}
	return print(tree)
}

var variable = regexp.MustCompile(`\$\{(\w+)\}|\{ns\}`)

// fill puts saved values into a text.
func (s *Server) fill(text string) string {
	return variable.ReplaceAllStringFunc(text, func(name string) string {
		return s.saved[strings.Trim(name, "${}")]
	})
}

func (s *Server) send(ctx context.Context, step Step) (*http.Response, error) {
	method, path, _ := strings.Cut(step.Do, " ")
	var body io.Reader
	if step.Raw != nil {
		body = strings.NewReader(s.fill(*step.Raw))
	} else if step.Body != nil {
		text, err := json.Marshal(step.Body)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader([]byte(s.fill(string(text))))
	}
	request, err := http.NewRequestWithContext(ctx, method, s.URL+s.fill(path), body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if step.User != "" {
		request.Header.Set("Impersonate-User", step.User)
	}
	for name, value := range step.Headers {
		if value == "" {
			request.Header.Del(name)
		} else {
			request.Header.Set(name, s.fill(value))
		}
	}
	return s.client.Do(request)
}
